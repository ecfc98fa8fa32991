"""Host certificates for servers that are not ours: for exact names, for a time, by the Host CA."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from mezite.auth.context import Operator
from mezite.auth.hosts import DEFAULT_TTL, MAX_NAMES, MAX_TTL, SignedHost, sign_host
from mezite.certs import keys, verify
from mezite.certs.ssh import parse_certificate_line
from mezite.core.model import check_host_name
from mezite.core.template import HOST_BACKDATE
from mezite.errors import CertificateRejected, InvalidInput
from tests.harness import Auth

ANN = Operator(1000, "ann")
KEY = keys.public_blob(keys.generate_ca_key())
LINE = keys.public_line(KEY, "root@web-1")


def sign(auth: Auth, *names: str, line: str = LINE, **more: Any) -> SignedHost:
    return auth.write(lambda tx: sign_host(auth.context, tx, ANN, line, names, **more))


def test_certificate_proves_the_host_by_each_of_its_names(auth: Auth) -> None:
    signed = sign(auth, "Web-1", "web-1.example.com", "10.0.0.5", "::1")
    certificate = parse_certificate_line(signed.text)
    assert certificate.subject_blob == KEY
    assert certificate.key_id == b"host/Web-1"
    assert certificate.critical_options == certificate.extensions == ()

    def proves(host: str, later: timedelta = timedelta()) -> None:
        now_unix = int((auth.now + later).timestamp())
        trusted = auth.context.authorities().host_cas
        verify.check_host_certificate(certificate, trusted=trusted, now_unix=now_unix, host=host)

    for host in ("web-1", "Web-1", "web-1.example.com", "10.0.0.5", "::1"):
        proves(host)
    assert b"web-1" in certificate.principals, "as ssh looks for it"
    proves("web-1", -HOST_BACKDATE)
    proves("web-1", DEFAULT_TTL - timedelta(seconds=1))
    with pytest.raises(CertificateRejected, match="valid until"):
        proves("web-1", DEFAULT_TTL)
    with pytest.raises(CertificateRejected, match="not good for the host"):
        proves("web-2")


def test_what_was_signed_stands_in_the_audit_log(auth: Auth) -> None:
    signed = sign(auth, "web-1", "10.0.0.5", ttl=timedelta(days=90))
    assert signed.not_after == auth.now + timedelta(days=90)
    (stored,) = auth.events("host.cert.issued")
    event = stored.event
    assert (event.actor, event.resource_type, event.resource_name) == ("uid:1000(ann)", "host", "web-1")
    (host_ca,) = auth.context.authorities().host_cas
    assert event.fields == {
        "names": "web-1,10.0.0.5", "key": keys.fingerprint(KEY), "ca_key": keys.fingerprint(host_ca),
        "serial": signed.serial, "ttl_s": 90 * 86400,
    }
    assert sign(auth, "web-1").serial > signed.serial


@pytest.mark.parametrize("name", [
    "*", "*.example.com", "web-?", "!web-1", "", " ", "a b", "web-1,web-2", "web-1:22", "[::1]", "web-1.",
    ".x", "a..b", "fe80::1%eth0", "x" * 64, "x." * 127 + "y", "wéb", "web-1\n", "root@web-1", "10.0.0.0/8",
])
def test_only_exact_names_are_signed(name: str) -> None:
    with pytest.raises(InvalidInput, match="no host name or address"):
        check_host_name(name)


@pytest.mark.parametrize("name", [
    "web-1", "web_1.example.com", "xn--wb-bja.example", "10.0.0.5", "::1", "fe80::1", "a" * 63,
])
def test_names_and_addresses_are_taken_as_they_are(name: str) -> None:
    assert check_host_name(name) == name


def test_what_cannot_be_signed_is_named_and_leaves_nothing(auth: Auth) -> None:
    weak = "ssh-ed25519 " + "AAAAC3NzaC1lZDI1NTE5AAAAIAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    certificate = sign(auth, "web-1").text
    before = len(auth.events("host.cert.issued"))
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"names": []}, "principals", "names no host"),
        ({"names": [f"web-{number}" for number in range(MAX_NAMES + 1)]}, "principals", "at most 100"),
        ({"ttl": MAX_TTL + timedelta(seconds=1)}, "ttl", "at most 366d"),
        ({"line": "web-1"}, "public_key", "not a public key line"),
        ({"line": weak}, "public_key", "anybody can sign for"),
        ({"line": certificate}, "public_key", "are not supported"),
    ]
    for given, path, told in cases:
        with pytest.raises(InvalidInput, match=told) as raised:
            sign(auth, *given.pop("names", ["web-1"]), **given)
        assert raised.value.path == path
    assert len(auth.events("host.cert.issued")) == before
