"""Configuration files: every fault is one line that names the file, the key and the way out."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezite.config.reading import Section, parse_yaml, read_yaml, split_address
from mezite.config.server import ServerConfig, existing
from mezite.core.admission import Limits
from mezite.errors import InvalidInput, UsageError

HOME = {"HOME": "/home/op"}


def load(text: str, environ: dict[str, str] | None = None, uid: int = 1000) -> ServerConfig:
    section = Section.from_value(parse_yaml(text.encode(), "m.yaml"), "m.yaml")
    return ServerConfig.from_section(section, environ or HOME, uid)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"a: 1\na: 2", "m.yaml: line 2, column 1: the key 'a' stands twice"),
        (b"\xff", "m.yaml: not UTF-8 at byte 0; save it as UTF-8"),
        (b"a: [", "m.yaml: line 1, column 5: not YAML: expected the node content"),
        (b"!!python/object:os.system x", "m.yaml: line 1, column 1: quote a text that begins with !"),
        (b"a: &x [*x]", "m.yaml: line 1, column 4: found unconstructable recursive node"),
        (b'a: [{b: "x\\ud800"}]', "m.yaml: a text holds half a character, \\ud800; write the whole one"),
        (b'"\\udfff": 1', "m.yaml: a text holds half a character, \\udfff; write the whole one"),
        (b"a: *b", "m.yaml: line 1, column 4: quote a text that begins with *"),
        (b"a" * (1024 * 1024 + 1), "m.yaml: larger than 1 MiB; that is no configuration"),
    ],
)
def test_what_is_no_yaml_is_told_with_its_place(text: bytes, fault: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_yaml(text, "m.yaml")
    assert str(caught.value).startswith(fault)


@given(st.binary(max_size=200))
def test_no_bytes_get_past_but_as_values_or_one_line(text: bytes) -> None:
    fault = ""
    try:
        parse_yaml(text, "m.yaml")
    except UsageError as error:
        fault = str(error)
    assert "\n" not in fault


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file or directory; name a readable file"):
        read_yaml(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("cluster: x", "cluster: unknown key; did you mean cluster_name?"),
        ("auth: {listen_adr: 1:2}", "auth.listen_adr: unknown key; did you mean listen_addr?"),
        ("auth: [1]", "auth: expected a mapping of keys"),
        ("auth: {listen_addr: nowhere}", "auth.listen_addr: 'nowhere' is not an address; write host:port"),
        ("auth: {listen_addr: '0.0.0.0:70000'}", "auth.listen_addr: '0.0.0.0:70000' has no port from 0 to"),
        ("auth: {tls: {certificate: a.pem}}", "auth.tls.key: missing; both or none are set"),
        ("cluster_name: 'a b'", "cluster_name: 'a b' is not a name"),
        ("database: {driver: mysql}", "database.driver: expected one of sqlite, postgres, found 'mysql'"),
        ("database: {host: a}", "database.host: unknown key"),
        ("database: {driver: postgres, prot: 1}", "database.prot: unknown key; did you mean port?"),
        ("database: {driver: postgres, port: 70000}", "database.port: expected a port from 1 to 65535"),
        ("database: {driver: postgres, host: [a, b, c], port: '1,2'}", "database.port: 2 ports for 3 hosts"),
        ("database: {driver: postgres, host: [a, {}]}", "database.host: expected a text or a list"),
        ("database: {driver: postgres, sslmode: no}", "database.sslmode: expected"),
        ("database: {driver: postgres, password: a, password_file: b}",
         "database.password_file: set this or password, not both"),
        ("database: {driver: postgres, password_file: /none}", "database.password_file: /none: No such"),
        ("log: {level: loud}", "log.level: expected one of debug, info, warn, error, found 'loud'"),
        ("ssh: {enabled: maybe}", "ssh.enabled: expected true or false, found 'maybe'"),
        ("ssh: {enabled: true, exec: all}", "ssh.exec: expected one of builtin, system, found 'all'"),
        ("ssh: {enabled: true, labels: {env: 3}}", "ssh.labels.env: expected a text, found 3; quote it"),
        ("ssh: {enabled: true, run_as: 'a b'}", "ssh.run_as: 'a b' is not a login name"),
        ("ssh: {lables: {}}", "ssh.lables: unknown key; did you mean labels?"),
        ("ca_key_passphrase: x\nca_key_passphrase_file: y", "ca_key_passphrase_file: set this or"),
        ("ca_key_passphrase_file: /nonexistent", "ca_key_passphrase_file: /nonexistent: No such file"),
        ("ca_key_passphrase_file: /", "ca_key_passphrase_file: /: Is a directory"),
        ("ca_key_passphrase_file: /dev/null", "ca_key_passphrase_file: /dev/null is empty"),
        ("ca_key_passphrase_file: /dev/zero", "ca_key_passphrase_file: /dev/zero: it holds more than 4096 b"),
        (f"ca_key_passphrase: {'x' * 1024}", "ca_key_passphrase: the passphrase is longer than 1023 bytes"),
        ("database: {driver: postgres, password_file: /dev/zero}",
         "database.password_file: /dev/zero: it holds more than 4096 bytes"),
    ],
)
def test_a_fault_in_the_servers_configuration_names_the_key_and_the_way_out(text: str, fault: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(text)
    assert str(caught.value).startswith(f"m.yaml: {fault}")
    assert "\n" not in str(caught.value)


def test_the_defaults_of_root_and_of_anybody_else() -> None:
    root, other = load("", uid=0), load("")
    assert (root.data_dir, root.admin_socket) == (Path("/var/lib/mezite"), Path("/run/mezite/admin.sock"))
    assert other.data_dir == Path("/home/op/.local/share/mezite")
    assert other.admin_socket == other.data_dir / "admin.sock"
    assert (other.listen_host, other.listen_port) == ("0.0.0.0", 3025)
    assert other.ssh is None


def test_the_environment_is_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "m.yaml"
    file.write_text("cluster_name: file\nlog: {level: error}\n")
    config = ServerConfig.load(
        file, {**HOME, "MEZITE_CLUSTER_NAME": "env", "MEZITE_LOG_FORMAT": "json",
               "MEZITE_CA_KEY_PASSPHRASE": "open sesame"}, 1000
    )
    assert (config.cluster_name, config.log_level, config.log_format) == ("env", "error", "json")
    assert config.ca_key_passphrase == b"open sesame"
    assert "sesame" not in repr(config)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.example.com:3025", ("a.example.com:3025",)),
        ("[a.example.com:3025, 'b.example.com:3025']", ("a.example.com:3025", "b.example.com:3025")),
        ("a.example.com:3025, b.example.com:3025", ("a.example.com:3025", "b.example.com:3025")),
    ],
)
def test_several_public_addresses_with_the_servers_own_one_first(
    text: str, expected: tuple[str, ...]
) -> None:
    config = load(f"auth: {{public_addr: {text!r}}}" if "[" not in text else f"auth: {{public_addr: {text}}}")
    assert config.public_addrs == expected
    assert config.public_host == "a.example.com"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("[]", "an empty list"),
        ("[a]", "host:port"),
        ("'a:1,'", "host:port"),
        ("'a:1,a:1'", "twice"),
        ("[1]", "expected a list of texts"),
        ("{a: 1}", "expected a text"),
    ],
)
def test_a_public_address_that_is_none_is_told(value: str, told: str) -> None:
    with pytest.raises(UsageError, match=rf"m.yaml: auth\.public_addr: .*{told}"):
        load(f"auth: {{public_addr: {value}}}")


def test_the_node_is_reached_where_it_listens() -> None:
    config = load("ssh: {enabled: true, node_name: node1, listen_addr: '127.0.0.1:3022'}")
    assert config.ssh is not None
    assert config.ssh.public_addr == "127.0.0.1:3022"
    assert config.ssh.host_names[0] == "node1"
    assert "127.0.0.1" in config.ssh.host_names
    assert config.ssh.exec == "builtin"


@pytest.mark.parametrize(
    "written",
    ["[hunter2]", "{hunter2: 1}", '"hunter2\\0"', '"hunter2\\ud800"', "*hunter2", "!hunter2 x", "@hunter2",
     "2024-01-17", "0777", "yes", "'hunter2"],
)
@pytest.mark.parametrize("key", ["ca_key_passphrase: {}", "database: {{driver: postgres, password: {}}}"])
def test_no_fault_shows_a_secret(key: str, written: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(key.format(written))
    assert str(caught.value).startswith("m.yaml: ")
    for part in ("hunter2", "2024", "17", "777", "511", "True"):
        assert part not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "default", "expected"),
    [
        ("auth.example.com:3025", None, ("auth.example.com", 3025)),
        ("auth.example.com", 3025, ("auth.example.com", 3025)),
        ("[::1]:9", None, ("::1", 9)),
        ("[::1]", 3025, ("::1", 3025)),
        ("::1", 3025, ("::1", 3025)),
    ],
)
def test_addresses(text: str, default: int | None, expected: tuple[str, int]) -> None:
    assert split_address(text, default) == expected


@pytest.mark.parametrize(
    "text",
    ["", ":1", "a:", "a:b", "a b:1", "a:-1", "a:１", "http://a:1", f"a:{'9' * 5000}", f"{'ü' * 80}:1"],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InvalidInput):
        split_address(text)


@pytest.mark.parametrize("written", ["0123", "22:22", "1_000", "0x1f", "1.10", ".inf"])
def test_a_text_that_yaml_takes_for_another_number_is_told(written: str) -> None:
    """A password of such a form was another one, in silence."""
    with pytest.raises(UsageError, match=r"m\.yaml: data_dir: YAML reads another number here .*; quote it"):
        load(f"data_dir: {written}")
    assert load("data_dir: 123").data_dir.name == "123"


def test_a_duration_in_a_section_is_told_with_its_key() -> None:
    section = Section.from_value({"keep": "90d", "bad": 3}, "m.yaml", "audit")
    assert section.duration("keep") == timedelta(days=90)
    with pytest.raises(UsageError, match=r"m\.yaml: audit\.bad: 3 is not a duration"):
        section.duration("bad")


def test_the_audit_log_is_kept_for_ever_unless_said_otherwise() -> None:
    assert load("{}").audit_keep is None
    assert load("audit: {keep: 400d}").audit_keep == timedelta(days=400)
    with pytest.raises(UsageError, match=r"^m.yaml: audit.keep: at least 7d"):
        load("audit: {keep: 6d}")
    assert load("audit: {keep: 36500d}").audit_keep == timedelta(days=36_500)
    with pytest.raises(UsageError, match=r"^m.yaml: audit.keep: at most 36500d; leave it out for ever"):
        load("audit: {keep: 999999d}")


def test_a_path_below_an_account_that_there_is_not_is_told() -> None:
    for text, key in (("data_dir: '~none-such/x'", "data_dir"),
                      ("auth: {admin_socket: '~none-such/x'}", "auth.admin_socket")):
        with pytest.raises(UsageError, match=rf"^m\.yaml: {key}: '~none-such/x': no home directory is known"):
            load(text)


def test_a_default_configuration_that_cannot_be_looked_at_is_told(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").touch()
    assert existing(tmp_path / "m.yaml") == tmp_path / "m.yaml"
    assert existing(tmp_path / "none" / "m.yaml") is None
    assert existing(tmp_path / "m.yaml" / "m.yaml") is None
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(UsageError, match=r"/loop/m\.yaml: Too many levels .*, or .* with --config$"):
        existing(loop / "m.yaml")


def test_limits_are_whole_numbers_a_second() -> None:
    assert load("{}").limits == Limits()
    set_so = load("limits: {joins_per_second: 5, waiting: 2}").limits
    assert set_so == Limits(joins=5, waiting=2)
    assert load("limits: {renewals_per_second_of_instance: 7}").limits == Limits(renewals_of_instance=7)
    with pytest.raises(UsageError, match=r"^m.yaml: limits.waiting: "):
        load("limits: {waiting: 1}")
    with pytest.raises(UsageError, match=r"^m.yaml: limits.joins: unknown key"):
        load("limits: {joins: 5}")


def test_pruning_is_hourly_unless_said_otherwise() -> None:
    assert load("{}").prune_every == timedelta(hours=1)
    assert load("retention: {prune_every: 10m}").prune_every == timedelta(minutes=10)
    for wrong in ("0s", "2d"):
        with pytest.raises(UsageError, match=r"^m.yaml: retention.prune_every: "):
            load(f"retention: {{prune_every: {wrong}}}")
