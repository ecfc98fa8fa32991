"""Entries of tables of principals and ``cert-authority`` lines: read, matched and merged as sshd does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mezite.certs import keys, verify
from mezite.certs.entries import (
    PERMISSIONS,
    EntryOptions,
    apply_entry,
    find_authority,
    find_entry,
    parse_key_line,
    parse_options,
)
from mezite.core.model import Identity
from mezite.errors import CertificateRejected, InvalidInput
from tests.certs.making import CA_BLOB, NOW, OTHER_CA, make

ALL = frozenset(PERMISSIONS.values())
FLAGS = tuple((name, None) for name in sorted(ALL))


@pytest.mark.parametrize("name", PERMISSIONS)
def test_each_permission_alone_and_all_but_one(name: str) -> None:
    extension = PERMISSIONS[name]
    assert parse_options(f"no-{name}").permissions == ALL - {extension}
    assert parse_options(f"restrict,{name}").permissions == {extension}
    assert parse_options(f"{name},restrict").permissions == set()
    assert parse_options(f"no-{name},{name.upper()}").permissions == ALL


READ = {
    "": EntryOptions(),
    "restrict": EntryOptions(permissions=frozenset()),
    "restrict ssh-ed25519 AAAA": EntryOptions(permissions=frozenset()),
    'command="a \\"b\\", c"': EntryOptions(force_command='a "b", c'),
    'COMMAND="x",cert-authority': EntryOptions(force_command="x", is_authority=True),
    'command=""': EntryOptions(force_command=""),
    'principals="a,b"': EntryOptions(principals=("a", "b")),
    'principals="a,,b"': EntryOptions(principals=("a",)),
    'principals=""': EntryOptions(principals=()),
    'from="10.0.0.0/8,!10.1.*"': EntryOptions(sources="10.0.0.0/8,!10.1.*"),
    'expiry-time="20300102Z"': EntryOptions(expires_at_unix=1893542400),
    'expiry-time="203001020304Z",expiry-time="20300102030405UTC"': EntryOptions(expires_at_unix=1893553440),
    'permitopen="a:1",permitopen="[::1]:*",permitopen="*:80"':
        EntryOptions(destinations=(("a", 1), ("::1", 0), ("*", 80))),
    'environment="A=b c",tunnel="3",permitlisten="8080",permitlisten="x:1"': EntryOptions(),
    "no-touch-required,verify-required": EntryOptions(is_verified=True),
    ",,pty": EntryOptions(),
}


@pytest.mark.parametrize("text", READ)
def test_options_are_read(text: str) -> None:
    assert parse_options(text) == READ[text]


@pytest.mark.parametrize("text", [
    "unknown", "ptyx", "no-restrict", "no-cert-authority", "pty,", "pty;user-rc", "command=x", 'command="x',
    'command="x",command="x"', 'from="1.2.3.4",from="1.2.3.4"', 'principals="a",principals="b"',
    'command ="x"',
    'expiry-time="2030"', 'expiry-time="20301350"', 'expiry-time="later"', 'environment="A"',
    'environment="A-B=c"', 'permitopen="a"', 'permitopen="a:0"', 'permitopen="a:65536"', 'permitopen=":1"',
    'permitlisten="x:y"', 'tunnel="x"', "port-forwarding=yes", 'no-command="x"', "pty,,x",
])
def test_faulty_options_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_options(text)


# --- tables ------------------------------------------------------------------------------------

TABLE = b"""# people
alice # an administrator
  restrict,pty bob\t
unknown-option carol
no-pty\tdora
command="echo a b" erin
unknown-option frank
frank
restrict greta
greta
with space
# hidden
"""


@pytest.mark.parametrize(("name", "found"), [
    (b"alice", EntryOptions()), (b"bob", EntryOptions(frozenset({"permit-pty"}))), (b"carol", None),
    (b"dora", EntryOptions(ALL - {"permit-pty"})), (b"erin", EntryOptions(force_command="echo a b")),
    (b"frank", EntryOptions()), (b"greta", EntryOptions(frozenset())), (b"hidden", None), (b"alic", None),
    (b"ALICE", None), (b"*", None), (b"", None), (b"space", None), (b"people", None), (b"# people", None),
])
def test_the_first_good_line_that_names_a_principal_counts(name: bytes, found: EntryOptions | None) -> None:
    assert find_entry(TABLE, (b"someone", name)) == found


def test_no_table_and_no_principals_name_nobody() -> None:
    for table in (b"", b"\n", b"#", b"\0", b"a\0b\n"):
        assert find_entry(table, (b"a", b"")) is None
    assert find_entry(TABLE, ()) is None


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=200), st.text(alphabet='ab=",-\\ \t#\nrestictpymdfo', max_size=80)
                 .map(str.encode)), st.lists(st.binary(max_size=8), max_size=3))
def test_whatever_a_table_holds(table: bytes, names: list[bytes]) -> None:
    """An entry or none; an entry's principal stands in the table."""
    if find_entry(table, names) is not None:
        assert any(name in table for name in names)


# --- judgment ----------------------------------------------------------------------------------


def identity(**changes: object) -> Identity:
    cert = make(**{"extensions": FLAGS, **changes})
    return verify.check_user_certificate(
        cert, trusted={CA_BLOB}, now_unix=NOW, login=None, address="192.0.2.7"
    )


def judged(options: str, *, address: str = "192.0.2.7", now: int = NOW, **changes: object) -> Identity:
    return apply_entry(
        identity(**changes), parse_options(options), login="deploy", address=address, now_unix=now
    )


def test_both_must_permit() -> None:
    assert judged("restrict,pty,user-rc").permissions == {"permit-pty", "permit-user-rc"}
    assert judged("", extensions=(("permit-pty", None),)).permissions == {"permit-pty"}
    assert judged("no-pty", extensions=(("permit-pty", None),)).permissions == set()


def test_either_may_force_a_command_and_both_the_same() -> None:
    forced = {"critical_options": (("force-command", "date"),)}
    assert judged("").force_command is None
    assert judged('command="date"').force_command == "date"
    assert judged("", **forced).force_command == "date"
    assert judged('command="date"', **forced).force_command == "date"
    for other in ("date ", "Date", ""):
        with pytest.raises(CertificateRejected, match="different commands"):
            judged(f'command="{other}"', **forced)


@pytest.mark.parametrize(("patterns", "address", "good"), [
    ("192.0.2.7", "192.0.2.7", True), ("192.0.2.0/24", "192.0.2.7", True), ("192.0.2.*", "192.0.2.7", True),
    ("192.0.2.?", "192.0.2.7", True), ("10.0.0.0/8,192.0.2.7", "192.0.2.7", True), ("*", "192.0.2.7", True),
    ("!192.0.2.8,192.0.2.0/24", "192.0.2.7", True), ("192.0.2.0/24", "::ffff:192.0.2.7", True),
    ("2001:db8::/32", "2001:db8::1%eth0", True), ("192.0.2.8", "192.0.2.7", False), ("", "192.0.2.7", False),
    ("*,!192.0.2.7", "192.0.2.7", False), ("!192.0.2.8", "192.0.2.7", False),
    ("192.0.2.7/24", "192.0.2.7", False), ("192.0.2.7,", "192.0.2.7", False),
    (",192.0.2.7", "192.0.2.7", False),
    ("192.0.2.7", "", False), ("[1]92.0.2.7", "192.0.2.7", False), ("localhost", "127.0.0.1", False),
])
def test_addresses(patterns: str, address: str, good: bool) -> None:
    try:
        found = bool(judged(f'from="{patterns}"', address=address))
    except CertificateRejected:
        found = False
    assert found is good


def test_time_of_an_entry_and_what_belongs_to_key_lines_only() -> None:
    assert judged('expiry-time="20300102Z"', now=NOW)
    for options in ('expiry-time="20200101Z"', 'principals="deploy"', "cert-authority", "verify-required",
                    'cert-authority,principals="deploy"'):
        with pytest.raises(CertificateRejected) as caught:
            judged(options)
        assert caught.value.code == "principals_entry"


# --- key lines ---------------------------------------------------------------------------------

CA_LINE = keys.public_line(CA_BLOB, "our CA")


def by_lines(lines: str, login: str = "deploy", **changes: object) -> str:
    """The outcome of a login by ``cert-authority`` lines."""
    cert = make(**{"extensions": FLAGS, **changes})
    options = find_authority(lines, cert)
    if options is None:
        return "no line"
    try:
        apply_entry(identity(**changes), options, login=login, address="192.0.2.7", now_unix=NOW,
                    key_line_for=cert)
    except CertificateRejected as error:
        return error.code
    return "good"


@pytest.mark.parametrize(("lines", "outcome"), [
    (f"cert-authority {CA_LINE}", "good"), (f"restrict,cert-authority {CA_LINE}\n", "good"),
    (CA_LINE, "no line"), (f"# cert-authority {CA_LINE}", "no line"), ("", "no line"),
    (f"junk\n\n  cert-authority\t{CA_LINE}", "good"), (f"cert-authority,unknown {CA_LINE}", "no line"),
    (f'cert-authority,principals="deploy" {CA_LINE}', "good"),
    (f'cert-authority,principals="x,backup" {CA_LINE}', "good"),
    (f'cert-authority,principals="x" {CA_LINE}', "wrong_principal"),
    (f'cert-authority,principals="" {CA_LINE}', "wrong_principal"),
    (f'cert-authority,from="10.0.0.0/8" {CA_LINE}', "principals_entry"),
    (f"cert-authority {keys.public_line(keys.public_blob(OTHER_CA))}", "no line"),
])
def test_authorities_in_key_lines(lines: str, outcome: str) -> None:
    assert by_lines(lines) == outcome


def test_without_principals_an_authority_speaks_of_the_login() -> None:
    assert by_lines(f"cert-authority {CA_LINE}", login="root") == "wrong_principal"
    assert by_lines(f'cert-authority,principals="deploy" {CA_LINE}', login="root") == "good"


def test_lines_that_are_none() -> None:
    for line in ("", "x", f'command="x {CA_LINE}', CA_LINE.replace("ssh-ed25519", "ssh-rsa"), "restrict",
                 f"restrict {CA_LINE[:40]}"):
        with pytest.raises(InvalidInput):
            parse_key_line(line)
    forced = EntryOptions(force_command='a " b c')
    assert parse_key_line(f'command="a \\" b c" {CA_LINE}') == (CA_BLOB, forced)
