"""What an agent signs: logins with its certificate, and nothing that could mean anything else."""

from __future__ import annotations

from typing import Any

import pytest

from mezite.agent.userauth import RSA_SHA2_256, RSA_SHA2_512, check_login, signature_algorithm
from mezite.certs import wire
from mezite.errors import CertificateRejected
from tests.agent.making import HOST_KEY, identity, login_request

HOSTBOUND = b"publickey-hostbound-v00@openssh.com"


def check(data: bytes, kind: str = "ecdsa", flags: int = 0) -> str:
    certificate = identity(1, kind).certificate
    return check_login(data, certificate, signature_algorithm(certificate, flags)).user


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"session": b"s" * 20},
        {"session": b"s" * 64},
        {"method": HOSTBOUND, "host_key": HOST_KEY},
    ],
)
def test_a_login_is_signed(changes: dict[str, Any]) -> None:
    assert check(login_request(identity(), **changes)) == "deploy"


@pytest.mark.parametrize(
    "changes",
    [
        {"session": b""},
        {"session": b"s" * 19},
        {"session": b"s" * 65},
        {"number": 51},
        {"service": b"ssh-userauth"},
        {"service": b""},
        {"user": b"de\0ploy"},
        {"method": b"hostbased"},
        {"method": b"password"},
        {"method": HOSTBOUND},
        {"method": HOSTBOUND, "host_key": b""},
        {"host_key": HOST_KEY},
        {"signed": 0},
        {"signed": 2},
        {"algorithm": b"ecdsa-sha2-nistp256"},
        {"algorithm": b"ssh-ed25519-cert-v01@openssh.com"},
        {"blob": identity(2).certificate.blob},
        {"blob": identity().certificate.subject_blob},
        {"rest": b"\0"},
    ],
    ids=lambda changes: " and ".join(changes),
)
def test_anything_else_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CertificateRejected):
        check(login_request(identity(), **changes))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n",
        b"SSHSIG" + wire.string(b"git") + wire.string(b"") + wire.string(b"sha512") + wire.string(b"h" * 64),
    ],
    ids=["nothing", "text", "sshsig"],
)
def test_files_and_commits_are_refused(data: bytes) -> None:
    with pytest.raises(CertificateRejected):
        check(data)


def test_every_cut_is_refused() -> None:
    whole = login_request(identity(), method=HOSTBOUND, host_key=HOST_KEY)
    for end in range(len(whole)):
        with pytest.raises(CertificateRejected):
            check(whole[:end])


@pytest.mark.parametrize(
    ("flags", "name"), [(RSA_SHA2_256, b"rsa-sha2-256"), (RSA_SHA2_512, b"rsa-sha2-512")]
)
def test_rsa_signs_by_the_flag_and_the_request_must_say_the_same(flags: int, name: bytes) -> None:
    held = identity(1, "rsa")
    assert signature_algorithm(held.certificate, flags) == name
    suffix = b"-cert-v01@openssh.com"
    assert check(login_request(held, algorithm=name + suffix), "rsa", flags) == "deploy"
    for other in (b"rsa-sha2-256", b"rsa-sha2-512", b"ssh-rsa"):
        if other != name:
            with pytest.raises(CertificateRejected):
                check(login_request(held, algorithm=other + suffix), "rsa", flags)


@pytest.mark.parametrize("flags", [0, 1, 6, 8, 0x80000002, 0xFFFFFFFF])
def test_no_sha1_and_no_unknown_flags(flags: int) -> None:
    with pytest.raises(CertificateRejected):
        signature_algorithm(identity(1, "rsa").certificate, flags)


@pytest.mark.parametrize(("flags", "good"), [(0, True), (2, True), (4, True), (1, False), (16, False)])
def test_flags_for_rsa_mean_nothing_to_other_keys(flags: int, good: bool) -> None:
    certificate = identity().certificate
    if good:
        assert signature_algorithm(certificate, flags) == b"ecdsa-sha2-nistp256"
    else:
        with pytest.raises(CertificateRejected):
            signature_algorithm(certificate, flags)
