"""What a program logs in with: one certificate, its key, and by what hosts are known."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from mezite.certs import keys, ssh, verify
from mezite.core.model import Node
from mezite.discreet import Discreet
from mezite.identity.outputs import Outputs
from mezite.identity.records import Held


class Credential(Discreet, frozen=True):
    """One generation of an identity, whole: key and certificate always belong together.

    It stays as it is when the identity is renewed; take
    :attr:`~mezite.client.aio.Identity.current` anew for each login.
    """

    hidden = ("private_key", "ssh_key", "certificate", "certificate_blob", "host_cas", "known_hosts")

    bot: str
    instance: str
    generation: int
    cluster: str
    principals: tuple[str, ...]
    """Logins that the certificate is good for."""
    roles: tuple[str, ...]
    valid_before: datetime
    """By the server's clock."""
    private_key: ec.EllipticCurvePrivateKey
    ssh_key: bytes
    """The private key as OpenSSH's files have it."""
    certificate: bytes
    """The line of a ``-cert.pub`` file, with its line end."""
    certificate_blob: bytes
    """The same in the SSH wire format."""
    host_cas: tuple[bytes, ...]
    """Public keys that sign host certificates, in the SSH wire format."""
    known_hosts: bytes
    """The ``@cert-authority`` lines for them."""
    nodes: tuple[Node, ...]
    """Nodes that the server told of."""

    @classmethod
    def from_held(cls, held: Held) -> Credential:
        """What of *held* a program needs; its lineage key is none of it."""
        outputs = Outputs.from_held(held)
        private_key = keys.private_from_pem(outputs.key.private_pem, None)
        assert isinstance(private_key, ec.EllipticCurvePrivateKey), "all our keys are P-256"
        return cls(
            bot=held.bot,
            instance=held.instance_id,
            generation=held.generation,
            cluster=held.trust.cluster_name,
            principals=held.principals,
            roles=held.roles,
            valid_before=datetime.fromtimestamp(held.valid_before_unix, UTC),
            private_key=private_key,
            ssh_key=outputs.ssh_key,
            certificate=outputs.certificate,
            certificate_blob=outputs.certificate_blob,
            host_cas=held.trust.host_cas,
            known_hosts=outputs.known_hosts,
            nodes=held.trust.nodes,
        )

    def sign(self, data: bytes) -> bytes:
        """The SSH signature blob over *data*, as a login by public key needs it (RFC 4252 §7)."""
        return keys.sign(self.private_key, data)

    def parsed(self) -> ssh.Certificate:
        """The certificate, field by field."""
        return ssh.parse_certificate(self.certificate_blob)

    def check_host(self, certificate: bytes, host: str) -> ssh.Certificate:
        """The host certificate in the blob *certificate*, when it is one of *host* now.

        Signed by one of :attr:`host_cas`, and good in every way.  Raises
        :class:`~mezite.errors.CertificateRejected`.  Not checked: whether the
        peer holds its key, which the key exchange shows.
        """
        parsed = ssh.parse_certificate(certificate)
        now = int(datetime.now(UTC).timestamp())
        verify.check_host_certificate(parsed, trusted=self.host_cas, now_unix=now, host=host)
        return parsed

    def for_asyncssh(self) -> dict[str, Any]:
        """Options of ``asyncssh.connect``: log in with this and nothing else, to hosts of this cluster.

        Neither an agent nor any file or configuration of the account is looked at.
        """
        import asyncssh  # the program's own; Mezite does not depend on it

        key = asyncssh.import_private_key(self.ssh_key)
        certificate = asyncssh.import_certificate(self.certificate)
        return {
            "client_keys": [(key, certificate)],
            "known_hosts": self.known_hosts,
            "agent_path": None,
            "config": None,
        }

    def conch_key(self) -> Any:
        """The private key as a :class:`twisted.conch.ssh.keys.Key`."""
        from twisted.conch.ssh.keys import Key

        return Key(self.private_key)
