"""One table: what is wrong with a certificate, and the code of the refusal."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from mezite.certs import keys, ssh, wire
from mezite.certs.verify import check_host_certificate, check_issued, check_user_certificate
from mezite.core.template import HOST
from mezite.errors import CertificateRejected
from tests.certs.making import CA, CA_BLOB, NOW, OTHER_CA, SUBJECT_BLOB, TEMPLATE, make, rsa_key


def check(cert: ssh.Certificate, *, login: str | None = "deploy", address: str | None = "192.0.2.7",
          now_unix: int = NOW, trusted: frozenset[bytes] = frozenset({CA_BLOB})) -> Any:
    return check_user_certificate(
        cert, trusted=trusted, now_unix=now_unix, login=login, address=address
    )


def test_good_certificate_gives_the_identity() -> None:
    identity = check(make())
    assert (identity.bot, identity.instance, identity.generation) == ("ci", "0b8f", 3)
    assert identity.roles == ("deployer", "reader")
    assert identity.lineage_key == "SHA256:abc"
    assert identity.principals == ("deploy", "backup")
    assert identity.permissions == {"permit-pty"}
    assert identity.ca_fingerprint == keys.fingerprint(CA_BLOB)
    assert identity.subject_fingerprint == keys.fingerprint(SUBJECT_BLOB)


def raw(kind: str, *options: tuple[bytes, bytes]) -> ssh.Certificate:
    """A certificate whose option data are not well formed, rightly signed."""
    cert = make()
    listed = b"".join(wire.string(name) + wire.string(data) for name, data in options)
    before = wire.string(b"") if kind == "critical_options" else b""
    good = {"critical_options": wire.string(b""), "extensions": _packed_extensions()}
    old = good["critical_options"] + good["extensions"]
    new = {**good, kind: wire.string(listed)}
    signed = cert.signed_part.replace(old, new["critical_options"] + new["extensions"], 1)
    assert signed != cert.signed_part, before
    return ssh.parse_certificate(signed + wire.string(keys.sign(CA, signed)))


def _packed_extensions() -> bytes:
    return wire.string(
        b"".join(wire.string(name) + wire.string(data) for name, data in make().extensions)
    )


def text(value: str) -> bytes:
    return wire.text(value)


CRITICAL = "critical_options"
EXTENSIONS = "extensions"
REJECTED: dict[str, tuple[Any, str]] = {
    "foreign CA": (make(OTHER_CA), "untrusted_ca"),
    "expired": (make(valid_before=NOW), "expired"),
    "not yet valid": (make(valid_after=NOW + 1), "not_yet_valid"),
    "after the end of unsigned time": (make(valid_after=2**63), "not_yet_valid"),
    "host certificate": (make(type=HOST), "wrong_type"),
    "another login": (make(principals=("backup",)), "wrong_principal"),
    "wildcard": (make(principals=("*",)), "wrong_principal"),
    "other case": (make(principals=("Deploy",)), "wrong_principal"),
    "comma list": (make(principals=("deploy,backup",)), "wrong_principal"),
    "spaces": (make(principals=(" deploy",)), "wrong_principal"),
    "unknown critical": (make(critical_options=(("x@example.com", None),)), "unknown_critical_option"),
    "permit-pty as critical": (make(critical_options=(("permit-pty", None),)), "unknown_critical_option"),
    "verify-required": (make(critical_options=(("verify-required", None),)), "bad_option"),
    "force-command twice": (
        raw(CRITICAL, (b"force-command", text("a")), (b"force-command", text("a"))), "bad_option"),
    "force-command unwrapped": (raw(CRITICAL, (b"force-command", b"uptime")), "bad_option"),
    "force-command with a tail": (raw(CRITICAL, (b"force-command", text("a") + b"\0")), "bad_option"),
    "force-command empty data": (raw(CRITICAL, (b"force-command", b"")), "bad_option"),
    "force-command with NUL": (raw(CRITICAL, (b"force-command", text("a\0b"))), "bad_option"),
    "permit-pty with data": (make(extensions=(("permit-pty", "x"),)), "bad_option"),
    "our extension twice": (
        raw(EXTENSIONS, (b"bot@mezite.com", text("a")), (b"bot@mezite.com", text("b"))), "bad_option"),
    "our extension unwrapped": (raw(EXTENSIONS, (b"bot@mezite.com", b"ci")), "bad_option"),
    "generation no number": (make(extensions=(("generation@mezite.com", "-1"),)), "bad_option"),
    "generation huge": (make(extensions=(("generation@mezite.com", "9" * 4000),)), "bad_option"),
    "empty role": (make(extensions=(("roles@mezite.com", "a,,b"),)), "bad_option"),
    "other address": (make(critical_options=(("source-address", "198.51.100.0/24"),)), "source_address"),
    **{
        f"source-address {value!r}": (make(critical_options=(("source-address", value),)), "bad_option")
        for value in (
            "", "junk", "192.0.2.7,", "192.0.2.7/24", "!192.0.2.7", "*", "192.0.2.*", "fe80::1%eth0",
            "192.0.2.0/33", " 192.0.2.7", "192.0.2.7,junk", "192.0.0.0/255.0.0.0", "192.0.2.0/0.0.0.255",
            "192.0.2.0/" + "0" * 50 + "24",
        )
    },
    "short RSA subject": (make(subject=keys.public_blob(rsa_key(1024))), "weak_key"),
    "changed after signing": (replace(make(), signed_part=make(serial=1).signed_part), "bad_signature"),
}


@pytest.mark.parametrize("what", REJECTED)
def test_rejected(what: str) -> None:
    cert, code = REJECTED[what]
    with pytest.raises(CertificateRejected) as caught:
        check(cert)
    assert caught.value.code == code


def test_remembered_signature_is_that_of_this_certificate_only() -> None:
    """Having verified a certificate helps no other one with its signature."""
    good, other = make(), make(serial=1)
    check(good)
    check(good)
    for bad in (replace(other, signature=good.signature), replace(good, signed_part=other.signed_part)):
        for _ in range(2):
            with pytest.raises(CertificateRejected) as caught:
                check(bad)
            assert caught.value.code == "bad_signature"


def test_no_principals_are_rejected() -> None:
    """An empty list never means all logins, whatever PROTOCOL.certkeys once said."""
    cert = replace(make(), principals=())
    with pytest.raises(CertificateRejected) as caught:
        check(cert)
    assert caught.value.code == "no_principals"


def test_ca_with_a_weak_key_is_rejected() -> None:
    weak = rsa_key(1024)
    with pytest.raises(CertificateRejected) as caught:
        check(make(weak), trusted=frozenset({keys.public_blob(weak)}))
    assert caught.value.code == "weak_key"


def test_empty_login_is_nobodys() -> None:
    """Not even of a certificate that has an empty principal."""
    with pytest.raises(CertificateRejected) as caught:
        check(make(principals=("", "deploy")), login="")
    assert caught.value.code == "wrong_principal"


def test_untrusted_ca_comes_first() -> None:
    """Nothing of a stranger's certificate is looked at before trust in its CA."""
    weak = keys.public_blob(rsa_key(1024))
    cert = make(OTHER_CA, type=HOST, valid_before=1, principals=("x",), subject=weak)
    with pytest.raises(CertificateRejected) as caught:
        check(cert)
    assert caught.value.code == "untrusted_ca"


@pytest.mark.parametrize(
    ("block", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.0/24", "::ffff:192.0.2.7"),
        ("10.0.0.0/8,2001:db8::/32", "2001:db8::7"),
        ("fe80::/10", "fe80::1%eth0"),
    ],
)
def test_source_address_lets_its_own_in(block: str, address: str) -> None:
    identity = check(make(critical_options=(("source-address", block),)), address=address)
    assert len(identity.source_address) == block.count(",") + 1


def test_source_address_without_a_peer_address_is_refused() -> None:
    with pytest.raises(CertificateRejected) as caught:
        check(make(critical_options=(("source-address", "192.0.2.0/24"),)), address=None)
    assert caught.value.code == "source_address"


def test_accepted_edges() -> None:
    check(make(valid_after=NOW))
    check(make(valid_before=NOW + 1))
    check(make(valid_after=0, valid_before=2**64 - 1))
    check(make(principals=("*", "deploy")))
    check(make(extensions=()))
    check(make(extensions=(("unknown@example.com", "whatever"),)))
    assert check(make(critical_options=(("force-command", "uptime"),))).force_command == "uptime"
    check(make(), login=None)


def test_issued_proves_when_expired() -> None:
    cert = make(valid_before=1, valid_after=0, critical_options=(("source-address", "10.0.0.1"),))
    assert check_issued(cert, trusted={CA_BLOB}).instance == "0b8f"


@pytest.mark.parametrize(
    ("cert", "code"),
    [
        (make(OTHER_CA), "untrusted_ca"),
        (make(type=HOST), "wrong_type"),
        (make(extensions=()), "not_ours"),
        (make(extensions=TEMPLATE.extensions[:4]), "not_ours"),
        (replace(make(), signature=make(serial=1).signature), "bad_signature"),
    ],
)
def test_issued_refuses_what_proves_nothing(cert: ssh.Certificate, code: str) -> None:
    with pytest.raises(CertificateRejected) as caught:
        check_issued(cert, trusted={CA_BLOB})
    assert caught.value.code == code


HOSTS = {"type": HOST, "extensions": (), "principals": ("node1", "Web-*.example.com")}


@pytest.mark.parametrize("host", ["node1", "NODE1", "web-3.example.com"])
def test_host_certificate_is_good_for_its_names(host: str) -> None:
    check_host_certificate(make(**HOSTS), trusted={CA_BLOB}, now_unix=NOW, host=host)


@pytest.mark.parametrize(
    ("cert", "code"),
    [
        (make(), "wrong_type"),
        (make(OTHER_CA, **HOSTS), "untrusted_ca"),
        (make(**{**HOSTS, "principals": ("node2",)}), "wrong_principal"),
        (make(**{**HOSTS, "principals": ("node[1]",)}), "wrong_principal"),
        (make(**HOSTS, valid_before=NOW), "expired"),
        (make(**HOSTS, valid_after=NOW + 1), "not_yet_valid"),
        (make(**HOSTS, critical_options=(("force-command", "x"),)), "unknown_critical_option"),
        (replace(make(**HOSTS), principals=()), "no_principals"),
        (replace(make(**HOSTS), signature=b""), "bad_signature"),
    ],
)
def test_host_certificate_is_refused(cert: ssh.Certificate, code: str) -> None:
    with pytest.raises(CertificateRejected) as caught:
        check_host_certificate(cert, trusted={CA_BLOB}, now_unix=NOW, host="node1")
    assert caught.value.code == code
