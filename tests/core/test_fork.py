"""What a fork looks like."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from mezite.core.fork import Fork, Holder, Likeness

AT = datetime(2026, 3, 24, 14, 0, tzinfo=UTC)
HOLDER = Holder(3, "SHA256:one", "192.0.2.7", "ci-7", "b0", AT)
OTHER = replace(HOLDER, generation=2, lineage_key="SHA256:two", address="198.51.100.9")


@pytest.mark.parametrize(
    ("changes", "likeness"),
    [
        ({}, Likeness.SAME_BOOT),
        ({"boot_id": "b1"}, Likeness.SAME_HOST),
        ({"boot_id": ""}, Likeness.SAME_HOST),
        ({"host": "laptop", "boot_id": "b1"}, Likeness.OTHER_HOST),
        # Containers share the kernel, and so the boot id.
        ({"host": "laptop"}, Likeness.OTHER_HOST),
        ({"host": ""}, Likeness.UNKNOWN),
    ],
)
def test_a_fork_looks_like_what_both_sides_say(changes: dict[str, str], likeness: Likeness) -> None:
    """Whichever side is the other one."""
    changed = replace(OTHER, **changes)
    assert Fork(HOLDER, changed).likeness is likeness
    assert Fork(changed, HOLDER).likeness is likeness


def test_two_machines_without_boot_ids_are_not_taken_for_one() -> None:
    one, two = replace(HOLDER, boot_id=""), replace(OTHER, boot_id="")
    assert Fork(one, two).likeness is Likeness.SAME_HOST


def test_its_line_names_both_sides() -> None:
    line = str(Fork(HOLDER, replace(OTHER, host="laptop", boot_id="")))
    assert line == (
        "generation 3 went to SHA256:one (ci-7 at 192.0.2.7, 2026-03-24T14:00:00Z, boot b0); "
        "generation 2 was then presented by SHA256:two (laptop at 198.51.100.9, 2026-03-24T14:00:00Z); "
        "looks like a copy on a foreign host"
    )


def test_its_document_reads_back() -> None:
    fork = Fork(HOLDER, OTHER)
    assert fork == Fork.from_document(json.loads(json.dumps(fork.to_document())))
