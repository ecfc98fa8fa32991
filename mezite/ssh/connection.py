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


class NodeConnection(SSHConnection):
    """The channels of one logged-in user, who is ``transport.avatar``."""

    transport: Any
    _log = Logger()

    def __init__(self, max_channels: int) -> None:
        super().__init__()
        self._max_channels = max_channels
        self._no_more_sessions = False

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
            if len(self.channels) >= self._max_channels:
                raise ConchError("too many channels", connection.OPEN_RESOURCE_SHORTAGE)
            if not max_packet:
                raise ConchError("packets of no size", connection.OPEN_CONNECT_FAILED)
            channel = self.transport.avatar.lookupChannel(kind, window, max_packet, reader.rest())
        except ConchError as error:
            self._log.info(
                "{user}: channel {kind} refused: {why}",
                user=plain(self.transport.avatar.login), kind=plain(kind, 64), why=error.value,
            )
            self.transport.sendPacket(
                connection.MSG_CHANNEL_OPEN_FAILURE,
                wire.u32(sender) + wire.u32(error.data) + wire.text(str(error.value)) + wire.string(b""),
            )
            return
        channel.conn = self
        channel.id = self.localChannelID
        self.localChannelID += 1
        self.channels[channel.id] = channel
        self.channelsToRemoteChannel[channel] = sender
        self.localToRemoteChannel[channel.id] = sender
        self.transport.sendPacket(
            connection.MSG_CHANNEL_OPEN_CONFIRMATION,
            b"".join(map(wire.u32, (sender, channel.id, channel.localWindowSize, channel.localMaxPacket))),
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
            self._log.info("{user}: more data than the window", user=plain(self.transport.avatar.login))
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
        """None is granted: there is no forwarding here yet."""
        if requestType == b"no-more-sessions@openssh.com":
            self._no_more_sessions = True
        return 0
