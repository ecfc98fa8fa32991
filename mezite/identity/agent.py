"""The agent output: the identity in memory, behind a socket.  Loaded only where it was asked for."""

from __future__ import annotations

from datetime import timedelta

from mezite.agent.identities import AgentIdentity
from mezite.agent.listening import AgentSocket
from mezite.errors import StateFailure
from mezite.identity.outputs import Outputs


class AgentPlace:
    """A place (see places.py), and a part of the program that is started and stopped.

    The socket is there from the start on: who asks before the first
    certificate has come learns that there is none yet.
    """

    def __init__(self, agent: AgentSocket) -> None:
        self._agent = agent

    def check(self) -> None:
        self._agent.listen()

    def publish(self, outputs: Outputs, now: timedelta) -> bool:
        self._agent.listen()
        identity = AgentIdentity.from_parts(
            outputs.certificate_blob, outputs.key.private_pem, outputs.comment
        )
        return self._agent.identities.offer(identity, now)

    def is_there(self) -> bool:
        """Always: :meth:`tidy` makes a socket anew that was removed."""
        return True

    def tidy(self, now: timedelta) -> None:
        self._agent.tidy(now)

    def privilegedStartService(self) -> None:
        """What stands in the way for good ends the daemon; a full disk, say, does not."""
        try:
            self._agent.listen()
        except StateFailure as error:
            self._agent.connections.tell("{why}; going on without it for now", why=str(error))

    def startService(self) -> None:
        """It has begun already."""

    def stopService(self) -> None:
        self._agent.stop()
