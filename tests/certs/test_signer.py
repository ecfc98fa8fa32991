"""The in-process signer signs each kind with its own CA."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from mezite.certs import keys, ssh
from mezite.certs.signer import InProcessSigner, Signer
from mezite.core.template import HOST
from tests.certs.making import CA, CA_BLOB, OTHER_CA, SUBJECT_BLOB, TEMPLATE


def test_each_kind_by_its_ca() -> None:
    signer: Signer = InProcessSigner(CA, OTHER_CA, lambda count: b"r" * count, other_user_cas=[b"old"])
    user = ssh.parse_certificate(signer.sign_user(TEMPLATE, SUBJECT_BLOB))
    host = ssh.parse_certificate(signer.sign_host(replace(TEMPLATE, type=HOST), SUBJECT_BLOB))
    assert signer.user_ca_blobs == (CA_BLOB, b"old")
    assert signer.host_ca_blobs == (keys.public_blob(OTHER_CA),)
    assert (user.ca_blob, host.ca_blob) == (CA_BLOB, keys.public_blob(OTHER_CA))
    assert user.nonce == b"r" * 32
    with pytest.raises(ValueError, match="user certificates only"):
        signer.sign_user(replace(TEMPLATE, type=HOST), SUBJECT_BLOB)
    with pytest.raises(ValueError, match="host certificates only"):
        signer.sign_host(TEMPLATE, SUBJECT_BLOB)
