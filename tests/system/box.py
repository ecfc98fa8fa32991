"""An empty machine to follow the docs on: a root directory, processes and a network of its own.

It is made of namespaces (unshare(1)), so that the paths and ports of the docs are used as
written and nothing of the real machine is touched: /etc is a copy, /usr is shared, everything else is
empty and gone afterwards.  No package index can be reached in it: what Mezite needs is on
``PYTHONPATH``, Mezite itself is not there before the docs install it.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parent.parent.parent
LIMIT_S = 240.0
"""For one block: pip, too, on a loaded machine."""
_UNSHARE = ("unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child")

_MAKE = r"""
set -euo pipefail
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$BOX"
cd "$BOX"
mkdir -p usr dev proc etc run/sshd tmp var/lib var/log var/cache var/tmp var/empty root home srv deps mezite
for name in bin sbin lib lib32 lib64 libx32; do
  if [ -L "/$name" ]; then cp -a "/$name" .
  elif [ -d "/$name" ]; then mkdir "$name"; mount --rbind "/$name" "$name"; fi
done
chmod 1777 tmp var/tmp; chmod 700 root
mount --rbind /usr usr
mount --rbind /dev dev
cp -a /etc/. etc/
rm -rf etc/mezite etc/ssh/ssh_config.d/* etc/ssh/sshd_config.d/* etc/ssh/ssh_host_*
ln -s /run var/run
printf '127.0.0.1 localhost\n::1 localhost\n' > etc/hosts
hostname box; echo box > etc/hostname; echo '127.0.1.1 box' >> etc/hosts
for shared in $SHARED; do
  mkdir -p ".$shared"; mount --bind "$shared" ".$shared"; mount -o remount,bind,ro ".$shared"
done
mount --bind "$DEPS" deps
cp -a "$SOURCE/." mezite/
mount -t proc proc proc
exec chroot "$BOX" /usr/bin/env -i HOME=/root USER=root LOGNAME=root LANG=C.UTF-8 SHELL=/bin/bash TERM=dumb \
  PATH="$INSIDE_PATH" PYTHONPATH=/deps/lib PYTHONDONTWRITEBYTECODE=1 \
  PIP_NO_INDEX=1 PIP_NO_BUILD_ISOLATION=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
  /bin/bash --norc --noprofile
"""
_LOOPBACK_UP = (
    "import fcntl, socket, struct; s = socket.socket(); "
    "fcntl.ioctl(s, 0x8914, struct.pack('16sh14x', b'lo', 0x49))"
)


_SCRIPTS = (("twistd", "twisted.scripts.twistd", "run"), ("pip", "pip._internal.cli.main", "main"))
"""What pip would have laid beside Mezite's own, where it had to install Twisted."""


def why_not() -> str:
    """Why there can be no box here; empty where there can."""
    if os.geteuid() != 0:
        return "needs root, for a machine of its own"
    if shutil.which("unshare") is None:
        return "needs unshare (Debian: util-linux)"
    tried = subprocess.run([*_UNSHARE, "true"], capture_output=True, text=True, check=False)
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


class Box:
    """One shell in it, to which one block after the other is given; ``with`` ends all that runs there."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._number = 0
        self.said = ""
        """All that was printed so far."""
        self._going_on: dict[str, str] = {}

    def __enter__(self) -> Box:
        deps, source, root = (self._directory / name for name in ("deps", "source", "root"))
        for directory in (deps / "lib", deps / "bin", source, root):
            directory.mkdir(parents=True)
        _dependencies(deps)
        sources(source)
        base = Path(sys.base_prefix)
        shared = {base, Path(sys.prefix).resolve()}
        environ = {
            **os.environ, "BOX": str(root), "DEPS": str(deps), "SOURCE": str(source),
            "SHARED": " ".join(str(one) for one in shared if not one.is_relative_to("/usr")),
            "INSIDE_PATH": f"{base}/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/deps/bin",
        }
        self._shell = subprocess.Popen(
            [*_UNSHARE, "bash", "-c", _MAKE], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env=environ, start_new_session=True,
        )
        self._type(f'python3 -c "{_LOOPBACK_UP}"')
        self._type("cd /mezite")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The first process of a pid namespace takes all others of it along.
        self._shell.kill()
        self._shell.wait()
        for pipe in (self._shell.stdin, self._shell.stdout):
            if pipe is not None:
                pipe.close()

    def type(self, text: str) -> str:
        """What *text* prints, typed into the shell; an ``AssertionError`` where a command fails."""
        return self._type(self._with_token(text))

    def leave_running(self, text: str, until: str) -> None:
        """As typed into a terminal of its own, until it has printed *until*."""
        name = text.split()[0]
        log = f"/tmp/{name}.terminal"
        typed = self._with_token(text).strip()
        # What a first one of that name has printed must not be taken for this one's.
        self._type(f": > {log}\n( exec {typed} ) </dev/null >>{log} 2>&1 &\nterminal_of_{name}=$!")
        wait = f"for _ in $(seq 1200); do grep -qsF -- '{until}' {log} && break; sleep 0.1; done"
        self._type(f"{wait}\ngrep -F -- '{until}' {log} >/dev/null || {{ cat {log}; false; }}")
        self._going_on[name] = log

    def interrupt(self, name: str) -> None:
        """Ctrl-C in the terminal where *name* runs."""
        # Bash starts what is in the background without SIGINT: SIGTERM is what reaches it.
        self._type(f"kill -TERM $terminal_of_{name}; wait $terminal_of_{name}")

    def put(self, path: str, text: str) -> None:
        """A file of the docs, written as its reader would."""
        end = "END-OF-THE-DOCS-FILE"
        self._type(f"mkdir -p $(dirname {path})\ncat > {path} <<'{end}'\n{text}\n{end}")

    def logs(self) -> str:
        """What the programs that go on have printed."""
        if self._shell.poll() is not None:
            return ""
        logs = self._going_on.items()
        return "\n".join(f"{name}:\n" + self._type(f"tail -n 30 {log}") for name, log in logs)

    def _with_token(self, text: str) -> str:
        """With the newest join token where the docs show one cut short, and with their destination."""
        text = text.replace("<destination>", "/var/lib/mezite/identity/certs")
        tokens = re.findall(r"tok-bot-[0-9a-f]{12}-[0-9a-f]{32}-[0-9a-f]{32}", self.said)
        placeholder = re.compile(r"tok-bot-(?:…|[0-9a-f]{12}(?!-))")
        return placeholder.sub(tokens[-1], text) if tokens else text

    def _type(self, text: str) -> str:
        self._number += 1
        end = f"end-of-block-{self._number}"
        assert self._shell.stdin is not None
        # What it starts must not read the shell's own input; what it exports stays.
        typed = f"set -euo pipefail\n{{\n{text}\n}} </dev/null\nset +eu; printf '\\n%s\\n' {end}\n"
        self._shell.stdin.write(typed.encode())
        self._shell.stdin.flush()
        printed = self._read_until(f"\n{end}\n", text)
        self.said += printed
        return printed

    def _read_until(self, end: str, typed: str) -> str:
        pipe: Any = self._shell.stdout
        found, deadline = "", time.monotonic() + LIMIT_S
        while not found.endswith(end):
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            more = os.read(pipe.fileno(), 65536) if ready else b""
            if not more:
                why = "ended the shell" if ready else f"did not end within {LIMIT_S} s"
                raise AssertionError(f"{why}:\n{typed}\nit printed:\n{found}")
            found += more.decode(errors="replace")
        return found.removesuffix(end).replace("\r\n", "\n")  # ssh ends its complaints as a terminal wants it


def _dependencies(deps: Path) -> None:
    """What Mezite needs, and not Mezite: links to what is installed here."""
    import twisted

    for entry in Path(twisted.__file__).parent.parent.iterdir():
        if not entry.name.startswith(("mezite", "__pycache__")):
            (deps / "lib" / entry.name).symlink_to(entry)
    for name, module, call in _SCRIPTS:
        script = deps / "bin" / name
        lines = ("#!/usr/bin/env python3", f"from {module} import {call}", f"raise SystemExit({call}())", "")
        script.write_text("\n".join(lines))
        script.chmod(0o755)


def sources(source: Path) -> None:
    """What the package is built from."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "mezite", "twisted", "docs"):
        found = ROOT / name
        if found.is_dir():
            made = shutil.ignore_patterns("__pycache__", "dropin.cache")
            shutil.copytree(found, source / name, ignore=made)
        else:
            shutil.copy(found, source / name)
