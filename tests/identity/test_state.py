"""The daemon's state survives what happens to disks."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import force_setattr

from mezite.core.model import Node
from mezite.errors import InvalidInput, StateFailure
from mezite.identity import codec
from mezite.identity.records import Durable
from mezite.identity.state import SLOT_SIZE, SLOTS, StateFile, parse_slot, slot_bytes
from tests.identity.limits import no_file_may_grow
from tests.identity.making import durable


def load(path: Path) -> Durable:
    state = StateFile(path)
    try:
        return state.load()
    finally:
        state.release()


def save(path: Path, *states: Durable) -> None:
    state = StateFile(path)
    try:
        state.load()
        for one in states:
            state.save(one)
    finally:
        state.release()


def slots(path: Path) -> list[Path]:
    return [path / ".mezite" / name for name in SLOTS]


def test_codec_round_trip() -> None:
    state = durable()
    assert state == codec.decode(codec.encode(state))
    assert Durable() == codec.decode(codec.encode(Durable()))


@given(st.binary(max_size=200))
def test_codec_refuses_everything_else(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        codec.decode(data)


@settings(max_examples=200)
@given(st.data())
def test_codec_refuses_what_was_cut_or_changed(data: st.DataObject) -> None:
    """It never fails in another way; the checksum is what finds changes of values."""
    encoded = codec.encode(_STATE)
    at = data.draw(st.integers(0, len(encoded) - 1))
    changed = encoded[:at] + data.draw(st.binary(max_size=3)) + encoded[at + 1 :]
    with suppress(InvalidInput):
        codec.decode(changed)


_STATE = durable()


def test_known_nodes_never_outgrow_the_slot() -> None:
    state = durable()
    many = tuple(Node(f"node-{number}", f"192.0.2.1:{number}") for number in range(50_000))
    force_setattr(state.held.trust, "nodes", many)
    encoded = codec.encode(state)
    assert len(encoded) < SLOT_SIZE // 2
    assert codec.decode(encoded).held.trust.nodes == many[: len(codec.decode(encoded).held.trust.nodes)]


def test_new_state_is_empty_and_private(tmp_path: Path) -> None:
    assert Durable() == load(tmp_path)
    assert (tmp_path / ".mezite").stat().st_mode & 0o777 == 0o700
    for slot in slots(tmp_path):
        assert (slot.stat().st_mode & 0o777, slot.stat().st_size) == (0o600, SLOT_SIZE)


def test_the_newest_state_is_found(tmp_path: Path) -> None:
    states = [durable(generation) for generation in range(1, 5)]
    for state in states:
        save(tmp_path, state)
        assert state == load(tmp_path)


def test_many_saves_by_one_process(tmp_path: Path) -> None:
    states = [durable(generation) for generation in range(1, 6)]
    save(tmp_path, *states)
    assert states[-1] == load(tmp_path)


def test_a_save_torn_anywhere_leaves_the_state_before(tmp_path: Path) -> None:
    """Every length of what got written, over what was there, is the old state or the new one."""
    old, new = durable(2), durable(3)
    save(tmp_path, durable(1), old)
    before = [slot.read_bytes() for slot in slots(tmp_path)]
    save(tmp_path, new)
    after = [slot.read_bytes() for slot in slots(tmp_path)]
    (changed,) = [number for number in (0, 1) if before[number] != after[number]]
    end = len(slot_bytes(0, codec.encode(new)))
    for length in [*range(80), *range(80, end, 97), end - 1]:
        torn = after[changed][:length] + before[changed][length:]
        slots(tmp_path)[changed].write_bytes(torn)
        # Where the two happen to agree in what is left, the save is whole.
        assert (new if torn == after[changed] else old) == load(tmp_path), length
    slots(tmp_path)[changed].write_bytes(after[changed])
    assert new == load(tmp_path)


def test_going_on_after_a_torn_save(tmp_path: Path) -> None:
    """The next save goes over the torn slot, never over the one that is good."""
    save(tmp_path, durable(1), durable(2))
    newest = slots(tmp_path)[0] if slots(tmp_path)[0].read_bytes() != b"" else slots(tmp_path)[1]
    newest.write_bytes(b"\xff" * SLOT_SIZE)
    survivor = load(tmp_path)
    other = next(slot for slot in slots(tmp_path) if slot != newest)
    kept = other.read_bytes()
    save(tmp_path, durable(3))
    assert kept == other.read_bytes()
    assert survivor.held.generation in (1, 2)
    assert load(tmp_path).held.generation == 3


def test_swapped_slots_change_nothing(tmp_path: Path) -> None:
    save(tmp_path, durable(1), durable(2))
    first, second = slots(tmp_path)
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    assert load(tmp_path).held.generation == 2
    save(tmp_path, durable(3))
    assert load(tmp_path).held.generation == 3


def test_a_cut_slot_grows_again(tmp_path: Path) -> None:
    save(tmp_path, durable(1), durable(2), durable(3))
    for slot in slots(tmp_path):
        content = slot.read_bytes()
        slot.write_bytes(content[:1000])
        try:
            generation = load(tmp_path).held.generation
        finally:
            slot.write_bytes(content)
        assert generation in (2, 3)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * SLOT_SIZE, b"something of somebody else\n" * 9, slot_bytes(3, b"{}"), slot_bytes(3, b"[")],
    ids=["empty", "zeros", "foreign", "no state", "no json"],
)
def test_damage_of_both_slots_is_told_and_nothing_is_touched(tmp_path: Path, content: bytes) -> None:
    save(tmp_path, durable(1))
    for slot in slots(tmp_path):
        slot.write_bytes(content)
    with pytest.raises(StateFailure, match=r"state\.0.*remove it and join again"):
        load(tmp_path)
    assert [content, content] == [slot.read_bytes() for slot in slots(tmp_path)]


def test_one_missing_and_one_damaged_is_damage(tmp_path: Path) -> None:
    save(tmp_path, durable(1))
    slots(tmp_path)[0].unlink()
    slots(tmp_path)[1].write_bytes(b"x")
    with pytest.raises(StateFailure):
        load(tmp_path)


def test_one_missing_slot_is_made_anew(tmp_path: Path) -> None:
    save(tmp_path, durable(1), durable(2))
    for slot in slots(tmp_path):
        content = slot.read_bytes()
        slot.unlink()
        assert load(tmp_path).held is not None
        assert slot.stat().st_size == SLOT_SIZE
        slot.write_bytes(content)


def test_a_newer_format_is_not_passed_over(tmp_path: Path) -> None:
    """Falling back to the other slot would undo what the newer program did."""
    save(tmp_path, durable(1))
    slots(tmp_path)[0].write_bytes(slot_bytes(99, b"{}", version=2))
    with pytest.raises(StateFailure, match="newer mezd"):
        load(tmp_path)


def test_only_one_process_at_a_time(tmp_path: Path) -> None:
    state = StateFile(tmp_path)
    with pytest.raises(StateFailure, match="already in use by another process"):
        StateFile(tmp_path)
    state.release()
    StateFile(tmp_path).release()


def test_a_file_in_the_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / ".mezite").write_text("mine")
    with pytest.raises(StateFailure, match=r"\.mezite"):
        StateFile(tmp_path)
    assert (tmp_path / ".mezite").read_text() == "mine"


def test_open_rights_are_taken_back(tmp_path: Path) -> None:
    (tmp_path / ".mezite").mkdir(mode=0o755)
    load(tmp_path)
    assert (tmp_path / ".mezite").stat().st_mode & 0o777 == 0o700


def test_saves_stay_within_what_was_allocated(tmp_path: Path) -> None:
    save(tmp_path, durable(1))
    blocks = [slot.stat().st_blocks for slot in slots(tmp_path)]
    with no_file_may_grow(beyond=SLOT_SIZE):
        save(tmp_path, durable(2), durable(3), durable(4))
    assert load(tmp_path).held.generation == 4
    assert blocks == [slot.stat().st_blocks for slot in slots(tmp_path)]
    assert all(slot.stat().st_blocks * 512 >= SLOT_SIZE for slot in slots(tmp_path))


def test_too_large_a_state_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    save(tmp_path, durable(1))
    state = durable(2)
    force_setattr(state.held.trust, "server_cas", (b"x" * SLOT_SIZE,))
    with pytest.raises(StateFailure, match="too large"):
        save(tmp_path, state)
    assert load(tmp_path).held.generation == 1


def test_unreadable_state_is_one_line(tmp_path: Path) -> None:
    save(tmp_path, durable(1))
    slots(tmp_path)[0].unlink()
    slots(tmp_path)[0].mkdir()
    with pytest.raises(StateFailure) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    slots(tmp_path)[0].rmdir()


@pytest.mark.parametrize("name", ["", ".mezite", ".mezite/lock", ".mezite/state.0", ".mezite/state.1"])
def test_what_was_removed_under_a_running_process_is_made_anew(tmp_path: Path, name: str) -> None:
    """Somebody's `rm -rf`, or a job that clears /tmp, does not cost the identity in memory."""
    place = tmp_path / "certs"
    place.mkdir()
    state = StateFile(place)
    state.load()
    state.save(durable(1))
    state.save(durable(2))
    last = durable(3)
    assert not state.missing()
    gone = place / name
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    assert list(state.missing()) == [str(place / ".mezite")]
    state.save(last)
    assert not state.missing()
    with pytest.raises(StateFailure, match="already in use"):
        StateFile(place)
    state.release()
    assert last == load(place)
    for slot in slots(place):
        assert (slot.stat().st_mode & 0o777, slot.stat().st_size) == (0o600, SLOT_SIZE)


def test_a_crash_while_a_removed_slot_is_made_good_loses_nothing(tmp_path: Path) -> None:
    """The slot that was the newest comes back as the newest, before anything else is written."""
    state = StateFile(tmp_path)
    state.load()
    before = durable(2)
    state.save(durable(1))
    state.save(before)
    newest = max(slots(tmp_path), key=lambda slot: parse_slot(slot.read_bytes(), slot)[0])
    was = parse_slot(newest.read_bytes(), newest)
    newest.unlink()
    state.save(durable(3))
    state.release()
    (other,) = [slot for slot in slots(tmp_path) if slot != newest]
    other.write_bytes(bytes(SLOT_SIZE))
    assert was == parse_slot(newest.read_bytes(), newest)
    assert before == load(tmp_path)


def test_a_file_system_that_numbers_its_files_anew_stops_no_save(tmp_path: Path) -> None:
    """Some of those in user space do: what lies there is ours, whatever its lock's number."""
    state = StateFile(tmp_path)
    state.load()
    last = durable(2)
    state.save(durable(1))
    lock = tmp_path / ".mezite" / "lock"
    lock.unlink()
    lock.touch()
    state.save(last)
    state.release()
    assert last == load(tmp_path)


def test_a_state_put_in_the_place_of_ours_is_never_written_to(tmp_path: Path) -> None:
    """The directory was removed and another daemon has joined there: that one's is not ours to replace."""
    state = StateFile(tmp_path)
    state.load()
    state.save(durable(7))
    shutil.rmtree(tmp_path / ".mezite")
    other = StateFile(tmp_path)
    other.load()
    theirs = durable(1)
    other.save(theirs)
    kept = [slot.read_bytes() for slot in slots(tmp_path)]
    with pytest.raises(StateFailure, match=r"\.mezite.*put in the place.*stop this mezd"):
        state.save(durable(8))
    other.release()
    with pytest.raises(StateFailure, match="put in the place"):
        state.save(durable(8))
    (tmp_path / ".mezite" / "lock").unlink()
    with pytest.raises(StateFailure, match="put in the place"):
        state.save(durable(8))
    assert kept == [slot.read_bytes() for slot in slots(tmp_path)]
    state.release()
    assert theirs == load(tmp_path)
