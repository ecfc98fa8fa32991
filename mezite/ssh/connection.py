"""``ssh-connection``: channels and their requests, read with bounds (RFC 4254).

Conch's own reading raises for malformed packets, logs a traceback for a refused
channel, and grants window for data that nobody has taken yet.
"""

from __future__ import annotations

from typing import Any

from twisted.conch.error import ConchError
from twisted.conch.ssh import connection
from twisted.conch.ssh.connection import SSHConnection
from twisted.logger import Logger

from mezite.certs import wire
from mezite.certs.wire import Reader
from mezite.core.audit import plain
from mezite.ssh.channel import FlowChannel
from mezite.ssh.conch_private import ConchLog
from mezite.ssh.forwarding import ForwardChannel
from mezite.ssh.session import NodeSession

_REMOTE_FORWARDING = frozenset({b"tcpip-forward", b"streamlocal-forward@openssh.com"})


class NodeConnection(SSHConnection):
    """The channels of one logged-in user, who is ``transport.avatar``."""

    transport: Any
    _log = ConchLog()
    _told = Logger()

    def __init__(self, max_sessions: int, max_forwards: int) -> None:
        """How many channels may live at a time, of either kind."""
        super().__init__()
        self._limits = {NodeSession: max_sessions, ForwardChannel: max_forwards}
        self._no_more_sessions = False
        self._opening: dict[int, ForwardChannel] = {}
        """By their numbers; the peer has not been told of these yet."""

    def serviceStopped(self) -> None:
        for channel in list(self._opening.values()):
            channel.abort()
        self._opening.clear()
        super().serviceStopped()

    def packetReceived(self, messageNum: int, packet: bytes) -> None:
        """Conch would write a whole unknown packet into the log."""
        if messageNum in self.protocolMessages:
            super().packetReceived(messageNum, packet)
        else:
            self.transport.sendUnimplemented()

    def flow_changed(self) -> None:
        """The transport takes output again, or takes no more for now."""
        for channel in list(self.channels.values()):
            channel.flow_changed()

    def ssh_CHANNEL_OPEN(self, packet: bytes) -> None:
        reader = Reader(packet, "channel request")
        kind = reader.string(256)
        sender, window, max_packet = reader.u32(), reader.u32(), reader.u32()
        try:
            if self._no_more_sessions and kind == b"session":
                raise ConchError("no more sessions", connection.OPEN_ADMINISTRATIVELY_PROHIBITED)
            if not max_packet:
                raise ConchError("packets of no size", connection.OPEN_CONNECT_FAILED)
            channel = self.transport.avatar.lookupChannel(kind, window, max_packet, reader.rest())
            self._check_limit(channel)
        except ConchError as error:
            user = self.transport.avatar
            if user.is_channel_refusal_told():
                self._told.info(
                    "{user}: channel {kind} refused: {why}", event="node.channel_refused",
                    user=plain(user.login), kind=plain(kind, 64), why=error.value,
                )
            self._send_failure(sender, error.data, str(error.value))
            return
        channel.conn = self
        channel.id = self.localChannelID
        self.localChannelID += 1
        channel.sender = sender
        if isinstance(channel, ForwardChannel):
            self._opening[channel.id] = channel
            channel.open()
        else:
            self.confirm(channel)

    def ssh_CHANNEL_OPEN_CONFIRMATION(self, packet: bytes) -> None:
        """The node opens no channel.  Conch would take the answer for one of the client's,
        with another packet size, or forget that channel and not what runs in it."""
        raise ConchError("an answer to nothing")

    ssh_CHANNEL_OPEN_FAILURE = ssh_CHANNEL_OPEN_CONFIRMATION

    def _check_limit(self, channel: FlowChannel) -> None:
        live = [*self.channels.values(), *self._opening.values()]
        kind = type(channel)
        if sum(isinstance(one, kind) for one in live) >= self._limits[kind]:
            raise ConchError("too many channels", connection.OPEN_RESOURCE_SHORTAGE)

    def confirm(self, channel: FlowChannel) -> None:
        """The channel is open: says so, and takes what comes for it."""
        self._opening.pop(channel.id, None)
        self.channels[channel.id] = channel
        self.channelsToRemoteChannel[channel] = channel.sender
        self.localToRemoteChannel[channel.id] = channel.sender
        self.transport.sendPacket(
            connection.MSG_CHANNEL_OPEN_CONFIRMATION,
            b"".join(
                map(wire.u32, (channel.sender, channel.id, channel.localWindowSize, channel.localMaxPacket))
            ),
        )

    def refuse(self, channel: ForwardChannel, why: str) -> None:
        """The channel cannot be opened after all."""
        self._opening.pop(channel.id, None)
        self._send_failure(channel.sender, connection.OPEN_CONNECT_FAILED, why)

    def _send_failure(self, sender: int, code: int, why: str) -> None:
        self.transport.sendPacket(
            connection.MSG_CHANNEL_OPEN_FAILURE,
            wire.u32(sender) + wire.u32(code) + wire.text(why) + wire.string(b""),
        )

    def ssh_CHANNEL_DATA(self, packet: bytes) -> None:
        reader = Reader(packet, "channel data")
        channel = self.channels[reader.u32()]
        data = reader.string()
        if self._spend(channel, data):
            channel.dataReceived(data)

    def ssh_CHANNEL_EXTENDED_DATA(self, packet: bytes) -> None:
        """No program here reads a second input; the window is given back."""
        reader = Reader(packet, "channel data")
        channel = self.channels[reader.u32()]
        reader.u32()
        data = reader.string()
        if self._spend(channel, data):
            channel.taken(len(data))

    def _spend(self, channel: Any, data: bytes) -> bool:
        if len(data) > channel.localWindowLeft or len(data) > channel.localMaxPacket:
            self._told.info(
                "{user}: more data than the window",
                event="node.window_exceeded", user=plain(self.transport.avatar.login),
            )
            channel.loseConnection()
            return False
        channel.localWindowLeft -= len(data)
        return not channel.localClosed

    def ssh_CHANNEL_REQUEST(self, packet: bytes) -> None:
        """Answers first and starts a program afterwards, so that its output
        never comes before the answer."""
        reader = Reader(packet, "channel request")
        channel = self.channels[reader.u32()]
        kind, wants_reply = reader.string(256), reader.boolean()
        granted = not channel.localClosed and channel.handle_request(kind, reader)
        if wants_reply and not channel.localClosed:
            number = connection.MSG_CHANNEL_SUCCESS if granted else connection.MSG_CHANNEL_FAILURE
            self.transport.sendPacket(number, wire.u32(self.channelsToRemoteChannel[channel]))
        if granted:
            channel.answered()

    def gotGlobalRequest(self, requestType: bytes, data: bytes) -> int:
        """None is granted.  A keepalive needs no more than the no that comes back."""
        if requestType == b"no-more-sessions@openssh.com":
            self._no_more_sessions = True
        elif requestType in _REMOTE_FORWARDING:
            why = "this node listens for nobody: no remote forwarding"
            self.transport.avatar.refused("port_forwarding", why, {"request": plain(requestType, 64)})
        return 0
