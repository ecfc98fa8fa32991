"""The parts that a program is made of, without what Twisted's own base class brings along.

`twisted.application.service` loads plugins, pickled applications and zip files, 0.6 MB that a
daemon would carry for nothing.
"""

from __future__ import annotations

from typing import Any


class Service:
    """Whatever takes services by Twisted's ``IService`` takes it, a ``MultiService`` too."""

    name: str | None = None
    running = False
    parent: Any = None

    # Twisted's names.

    def setName(self, name: str) -> None:
        """Raises :class:`RuntimeError` while it has a parent, which knows it by name."""
        if self.parent is not None:
            raise RuntimeError("a service that has a parent keeps its name")
        self.name = name

    def setServiceParent(self, parent: Any) -> None:
        """*parent* takes it, and whoever had it before gives it up."""
        if self.parent is not None:
            self.disownServiceParent()
        self.parent = parent
        parent.addService(self)

    def disownServiceParent(self) -> Any:
        """A Deferred where it takes a while to stop."""
        parent, self.parent = self.parent, None
        return parent.removeService(self)

    def privilegedStartService(self) -> None:
        """What takes privileges or must fail in its starter's sight."""

    def startService(self) -> None:
        self.running = True

    def stopService(self) -> Any:
        """A Deferred where it takes a while."""
        self.running = False
        return None
