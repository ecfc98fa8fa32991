"""The topics, each a module with ``measure(quick)``."""

from __future__ import annotations

import importlib

from benchmarks.measure import Table

TOPICS = {
    "rpc": "renewals and joins, beside empty gRPC calls",
    "stages": "where a renewal's time goes, without gRPC",
    "stepca": "renewals and joins beside step-ca, where STEP_CA names its program",
    "workers": "renewals by 1, 2 and 4 workers",
    "storage": "durable generation steps, slow disks, a million instances",
    "growth": "bytes that a renewal adds to a SQLite database, and has written",
    "postgres": "the same on PostgreSQL; pages, sizes and starts with a million instances",
    "million": "a server with a million instances, on both databases: renewals, start, pages for operators",
    "node": "logins at the SSH node, beside asyncssh's server and sshd",
    "commands": "how long mezctl and mezd take",
    "memory": "the server and the daemon, beside bare processes",
}


def measure(topic: str, quick: bool) -> list[Table]:
    tables: list[Table] = importlib.import_module(f"benchmarks.{topic}").measure(quick)
    return tables
