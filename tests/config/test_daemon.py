"""The daemon's settings: which source wins, and what each fault says."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mezite.config.daemon import DaemonConfig, load, split_address
from mezite.errors import InvalidInput, UsageError

TOKEN = "tok-bot-a1b2c3d4e5f6-0123456789abcdef0123456789abcdef-00112233445566778899aabbccddeeff"
PIN = "00112233445566778899aabbccddeeff"


def config(
    flags: dict[str, Any] | None = None, /, yaml: Path | None = None, **environ: str
) -> DaemonConfig:
    words = {"config": str(yaml) if yaml else None, **(flags or {})}
    return load(words, {"HOME": "/home/x", **environ}, 1000)


def fault(flags: dict[str, Any] | None = None, /, yaml: Path | None = None, **environ: str) -> str:
    with pytest.raises(UsageError) as caught:
        config(flags, yaml, **environ)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.fixture
def yaml(tmp_path: Path) -> Path:
    return tmp_path / "mezd.yaml"


def test_a_file_of_another_program_is_told_with_the_keys_of_this_one(yaml: Path) -> None:
    """Each once, though both spellings are taken."""
    yaml.write_text("kind: role\n")
    told = fault({}, yaml)
    assert told.startswith(f"{yaml}: kind: unknown key; known here: auth-server, join-token, ")
    known = told.partition("known here: ")[2].replace("_", "-").split(", ")
    assert len(known) == len(set(known))
    yaml.write_text("renewal_intervall: 1m\n")
    assert fault({}, yaml) == f"{yaml}: renewal_intervall: unknown key; did you mean renewal_interval?"


def test_defaults() -> None:
    assert config() == DaemonConfig(destination=Path("/home/x/.local/state/mezite/identity"))
    assert load({}, {}, 0).destination == Path("/var/lib/mezite/identity/certs")


def test_flags_win_over_environment_over_file_over_defaults(yaml: Path) -> None:
    yaml.write_text("renewal-interval: 1m\ncertificate-ttl: 1h\ndestination: /from/file\n")
    environ = {"MEZITE_RENEWAL_INTERVAL": "2m", "MEZITE_CERTIFICATE_TTL": "2h"}
    found = config({"renewal_interval": "3m"}, yaml, **environ)
    assert (timedelta(minutes=3), timedelta(hours=2), Path("/from/file")) == (
        found.renewal_interval, found.certificate_ttl, found.destination
    )


@pytest.mark.parametrize("text", ["auth-server: a:1\njoin-token: {}\none-shot: true\n",
                                  "auth_server: a:1\ntoken: {}\none_shot: yes\noutputs: [files]\n"])
def test_both_spellings_in_a_file(yaml: Path, text: str) -> None:
    yaml.write_text(text.format(TOKEN))
    found = config(yaml=yaml)
    assert (found.auth_servers, found.one_shot, found.outputs) == ((("a", 1),), True, ("files",))
    assert found.token.read(str).to_text() == TOKEN


@pytest.mark.parametrize("text", ["auth-server: [a, 'b:1', '[::1]:2']", "auth-server: a, b:1,[::1]:2"])
def test_several_servers_are_a_list_or_separated_by_commas(yaml: Path, text: str) -> None:
    yaml.write_text(text)
    assert config(yaml=yaml).auth_servers == (("a", 3025), ("b", 1), ("::1", 2))


def test_every_key_in_the_environment() -> None:
    found = config(
        MEZITE_AUTH_SERVER="auth.example.com", MEZITE_TOKEN=TOKEN, MEZITE_DESTINATION="/d",
        MEZITE_ONE_SHOT="1",
        MEZITE_RENEWAL_INTERVAL="30m", MEZITE_CERTIFICATE_TTL="1h30m", MEZITE_OUTPUTS="files",
        MEZITE_CA_PIN=PIN, MEZITE_CONTROL_SOCKET="/run/x.sock",
    )
    assert found == DaemonConfig(
        destination=Path("/d"), auth_servers=(("auth.example.com", 3025),), token=found.token,
        renewal_interval=timedelta(minutes=30), certificate_ttl=timedelta(minutes=90), one_shot=True,
        ca_pin=PIN, control_socket=Path("/run/x.sock"),
    )


def test_the_home_directory_is_known_in_every_path(
    yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No shell expands `~` in --join-token-file=~/token, and nothing does in YAML."""
    monkeypatch.setenv("HOME", str(tmp_path))
    yaml.write_text("{join-token-file: ~/token, ca-file: ~/ca.pem, control-socket: ~/s, destination: ~/d,"
                    " destinations: [{name: a, destination: ~/a}]}")
    found = config({"config": "~/mezd.yaml"})
    assert found == config(yaml=yaml)
    assert (found.token.file, found.ca_file, found.control_socket, found.destination) == tuple(
        tmp_path / name for name in ("token", "ca.pem", "s", "d")
    )
    assert found.further[0].destination == tmp_path / "a"


def test_a_pin_that_yaml_takes_for_a_number_is_told(yaml: Path) -> None:
    yaml.write_text(f"ca-pin: {'1' * 32}\n")
    assert fault({}, yaml).endswith(f"ca-pin: expected a text, found the number {'1' * 32}; put it in quotes")
    yaml.write_text(f"ca-pin: '{'1' * 32}'\n")
    assert config(yaml=yaml).ca_pin == "1" * 32


@pytest.mark.parametrize(
    "key", ["destination", "join-token-file", "ca-file", "control-socket", "destinations"]
)
def test_the_home_of_nobody_is_told(yaml: Path, key: str) -> None:
    value = "[{name: a, destination: ~nosuch/d}]" if key == "destinations" else "~nosuch/d"
    yaml.write_text(f"{key}: {value}\n")
    told = fault({}, yaml)
    assert told.startswith(f"{yaml}: {key}")
    assert told.endswith("'~nosuch/d': no home directory is known for that account; write the whole path")


def test_empty_variables_count_as_none() -> None:
    """A CI system passes an unset secret on as an empty text."""
    assert config(MEZITE_JOIN_TOKEN="", MEZITE_DESTINATION="").token is None


def test_a_token_given_otherwise_sets_aside_the_lower_layers(yaml: Path, tmp_path: Path) -> None:
    yaml.write_text(f"join-token-file: {tmp_path}/none\n")
    assert config({"join_token": TOKEN}, yaml).token.text == TOKEN
    assert config({"ca_file": "ca.pem"}, MEZITE_CA_PIN=PIN).ca_pin is None


@pytest.mark.parametrize(
    ("flags", "environ"),
    [
        ({"join_token": TOKEN, "join_token_file": "f"}, {}),
        ({"ca_pin": PIN, "ca_file": "f"}, {}),
        ({}, {"MEZITE_TOKEN": TOKEN, "MEZITE_JOIN_TOKEN": TOKEN}),
    ],
)
def test_two_at_once_are_refused(flags: dict[str, str], environ: dict[str, str]) -> None:
    assert "give one of them" in fault(flags, **environ)


FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({"auth_server": "https://auth.example.com"}, "--auth-server", "write host:port"),
    ({"auth_server": "a:b"}, "--auth-server", "write host:port"),
    ({"auth_server": "a:0"}, "--auth-server", "port 0"),
    ({"auth_server": "a,b:0"}, "--auth-server", "port 0"),
    ({"auth_server": "a,,b"}, "--auth-server", "write host:port"),
    ({"auth_server": "a:70000"}, "--auth-server", "write host:port"),
    ({"auth_server": ""}, "--auth-server", "not empty"),
    ({"renewal_interval": "30"}, "--renewal-interval", "write a duration"),
    ({"renewal_interval": "0s"}, "--renewal-interval", "no time at all"),
    ({"certificate_ttl": "-5m"}, "--certificate-ttl", "write a duration"),
    ({"renewal_interval": "1h", "certificate_ttl": "1h"}, "--renewal-interval", "not shorter than"),
    ({"renewal_interval": "2h", "certificate_ttl": "1h"}, "--renewal-interval", "not shorter than"),
    ({"outputs": "agent", "one_shot": True}, "--outputs", "use files"),
    ({"outputs": "files,agents"}, "--outputs", "unknown output 'agents'"),
    ({"outputs": "file"}, "--outputs", "unknown output"),
    ({"outputs": ""}, "--outputs", "unknown output"),
    ({"ca_pin": "abc"}, "--ca-pin", "32 lower-case hex"),
    ({"ca_pin": PIN.upper()}, "--ca-pin", "32 lower-case hex"),
    ({"diag_addr": "127.0.0.1"}, "--diag-addr", "such as 127.0.0.1:3082"),
    ({"destination": ""}, "--destination", "not empty"),
]


@pytest.mark.parametrize(("flags", "name", "part"), FAULTS)
def test_faults_name_the_flag_and_the_way_out(flags: dict[str, Any], name: str, part: str) -> None:
    text = fault(flags)
    assert text.startswith(name)
    assert part in text


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("auth-sever: a", ("auth-sever", "did you mean auth-server?")),
        ("renewal-interval: 30", ("renewal-interval", "30")),
        ("one-shot: perhaps", ("one-shot", "true or false")),
        ("outputs: {files: 1}", ("outputs",)),
        ("join-token: 5", ("join-token", "expected a text")),
        ("auth-server: a\nauth_server: b", ("auth_server", "give one of them")),
        ("auth-server: a\nauth-server: b", ("stands twice",)),
        ("- a", ("expected a mapping",)),
        ("a: [", ("line",)),
    ],
)
def test_faults_in_a_file_name_it_and_the_key(yaml: Path, text: str, parts: tuple[str, ...]) -> None:
    yaml.write_text(text)
    found = fault(yaml=yaml)
    assert found.startswith(str(yaml))
    for part in parts:
        assert part in found


def test_files_that_cannot_be_read(yaml: Path) -> None:
    assert str(yaml) in fault(yaml=yaml)
    yaml.write_bytes(b"\xff\xfe")
    assert "not UTF-8" in fault(yaml=yaml)


# --- the token -----------------------------------------------------------------------------


def test_the_token_from_a_file_and_from_standard_input(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert config({"join_token_file": str(tmp_path / "token")}).token.read(str).to_text() == TOKEN
    for flags in ({"join_token": "-"}, {"join_token_file": "-"}):
        assert config(flags).token.read(lambda: f"{TOKEN}\n").to_text() == TOKEN


@pytest.mark.parametrize(
    "text",
    ["tok-bot-a1b2c3d4e5f6", TOKEN[:-1], TOKEN + "0", TOKEN.upper(), TOKEN.rpartition("-")[0], "hello", "ü"],
)
def test_mistyped_tokens(text: str, tmp_path: Path) -> None:
    """The short form of the documentation among them: it lacks the secret and the pin."""
    (tmp_path / "token").write_text(text)
    for flags in ({"join_token": text}, {"join_token_file": str(tmp_path / "token")}):
        with pytest.raises(UsageError, match="mistyped or cut short") as caught:
            config(flags).token.read(str)
        assert text not in str(caught.value)


def test_no_token_where_one_was_promised(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="empty"):
        config({"join_token": ""}).token.read(str)
    with pytest.raises(UsageError, match="empty"):
        config({"join_token": "-"}).token.read(lambda: "")
    with pytest.raises(UsageError, match="No such file"):
        config({"join_token_file": str(tmp_path / "none")}).token.read(str)


def test_a_token_that_is_gone_does_no_harm_where_it_is_not_needed(tmp_path: Path) -> None:
    for flags in ({"join_token": ""}, {"join_token": "-"}, {"join_token_file": str(tmp_path / "none")}):
        assert config(flags).token.read_if_any(str) is None
    (tmp_path / "token").write_text(TOKEN)
    for flags in ({"join_token": TOKEN}, {"join_token_file": str(tmp_path / "token")}):
        assert config(flags).token.read_if_any(str).to_text() == TOKEN
    with pytest.raises(UsageError, match=r"--join-token: .*mistyped"):
        config({"join_token": "tok"}).token.read_if_any(str)


def test_a_token_that_cannot_be_read_is_told_and_does_no_harm_where_it_is_not_needed(tmp_path: Path) -> None:
    """It was made root's after the join: no reason to end the identity at the next restart."""
    unreadable = tmp_path / "token"
    unreadable.mkdir()
    source = config({"join_token_file": str(unreadable)}).token
    told: list[str] = []
    assert source.read_if_any(str, told.append) is None
    assert told == [
        f"--join-token-file: {unreadable}: Is a directory; name a readable file with the join token"
    ]
    with pytest.raises(UsageError, match="Is a directory"):
        source.read(str)


def test_the_token_is_in_no_repr() -> None:
    secret = TOKEN.split("-")[3]
    assert secret not in repr(config({"join_token": TOKEN}))
    assert secret not in repr(config({"join_token": TOKEN}).token)


# --- addresses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auth.example.com", ("auth.example.com", 3025)),
        ("auth.example.com:1", ("auth.example.com", 1)),
        ("192.0.2.1:65535", ("192.0.2.1", 65535)),
        ("[2001:db8::1]:443", ("2001:db8::1", 443)),
        ("[2001:db8::1]", ("2001:db8::1", 3025)),
        ("2001:db8::1", ("2001:db8::1", 3025)),
        ("::1", ("::1", 3025)),
        ("localhost", ("localhost", 3025)),
        ("b\u00fccher.example:1", ("xn--bcher-kva.example", 1)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    assert expected == split_address(text)


@pytest.mark.parametrize("text", ["", ":1", "a:", "a:b", "a b", "a:1:2", "[a]:1", "a/b", '"a"', "a:999999",
                                  "\u00fc..a", "\u00fc" * 70, "\udcff.example"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(InvalidInput, match="write host:port"):
        split_address(text)


def test_the_form_of_the_log() -> None:
    """text unless it is asked for, by the same variable as the server's."""
    assert load({}, {"HOME": "/home/x"}, 1000).log_format == "text"
    assert load({}, {"HOME": "/home/x", "MEZITE_LOG_FORMAT": "json"}, 1000).log_format == "json"
    with pytest.raises(UsageError, match=r"--log-format: expected text or json, found 'xml'"):
        load({"log_format": "xml"}, {"HOME": "/home/x"}, 1000)
