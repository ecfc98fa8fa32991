"""A machine whose daemon knows several servers."""

from __future__ import annotations

from tests.system.faults.launcher import Launched
from tests.system.faults.rig import Machine, Site


class Member(Machine):
    """A machine that knows all servers."""

    def __init__(self, site: Site, name: str, servers: str, words: list[str]) -> None:
        super().__init__(site, name)
        self._servers, self._words = servers, words

    def start_with(self, *words: str, port: int | None = None) -> Launched:
        argv = ["identity", "start", f"--auth-server={self._servers}", f"--destination={self.destination}"]
        env = {"HOME": str(self.home), "LANG": "C.UTF-8", "PYTHONWARNINGS": "ignore", "PATH": "/usr/bin:/bin"}
        daemons = self.site.launchers.daemons
        self.daemon = daemons.start([*argv, *self._words, *words], env, self.home / "mezd.log")
        return self.daemon
