from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetClusterRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetClusterResponse(_message.Message):
    __slots__ = ("cluster_name", "cluster_uuid", "server_time_unix_ms")
    CLUSTER_NAME_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_UUID_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    cluster_name: str
    cluster_uuid: str
    server_time_unix_ms: int
    def __init__(self, cluster_name: _Optional[str] = ..., cluster_uuid: _Optional[str] = ..., server_time_unix_ms: _Optional[int] = ...) -> None: ...

class SignedRequest(_message.Message):
    __slots__ = ("body", "signature", "nonce")
    BODY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    signature: bytes
    nonce: bytes
    def __init__(self, body: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class SshKey(_message.Message):
    __slots__ = ("output", "public_key", "roles", "certificate_ttl_seconds")
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_TTL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    output: str
    public_key: bytes
    roles: _containers.RepeatedScalarFieldContainer[str]
    certificate_ttl_seconds: int
    def __init__(self, output: _Optional[str] = ..., public_key: _Optional[bytes] = ..., roles: _Optional[_Iterable[str]] = ..., certificate_ttl_seconds: _Optional[int] = ...) -> None: ...

class Wishes(_message.Message):
    __slots__ = ("certificate_ttl_seconds", "renewal_interval_seconds", "client_time_unix_ms", "host", "boot_id")
    CERTIFICATE_TTL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RENEWAL_INTERVAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_TIME_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    certificate_ttl_seconds: int
    renewal_interval_seconds: int
    client_time_unix_ms: int
    host: str
    boot_id: str
    def __init__(self, certificate_ttl_seconds: _Optional[int] = ..., renewal_interval_seconds: _Optional[int] = ..., client_time_unix_ms: _Optional[int] = ..., host: _Optional[str] = ..., boot_id: _Optional[str] = ...) -> None: ...

class JoinBody(_message.Message):
    __slots__ = ("token", "lineage_key", "ssh_keys", "wishes")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_KEY_FIELD_NUMBER: _ClassVar[int]
    SSH_KEYS_FIELD_NUMBER: _ClassVar[int]
    WISHES_FIELD_NUMBER: _ClassVar[int]
    token: JoinToken
    lineage_key: bytes
    ssh_keys: _containers.RepeatedCompositeFieldContainer[SshKey]
    wishes: Wishes
    def __init__(self, token: _Optional[_Union[JoinToken, _Mapping]] = ..., lineage_key: _Optional[bytes] = ..., ssh_keys: _Optional[_Iterable[_Union[SshKey, _Mapping]]] = ..., wishes: _Optional[_Union[Wishes, _Mapping]] = ...) -> None: ...

class JoinToken(_message.Message):
    __slots__ = ("id", "secret")
    ID_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    id: str
    secret: str
    def __init__(self, id: _Optional[str] = ..., secret: _Optional[str] = ...) -> None: ...

class RenewBody(_message.Message):
    __slots__ = ("instance_id", "generation", "lineage_key", "certificate", "new_lineage_key", "ssh_keys", "wishes")
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_KEY_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    NEW_LINEAGE_KEY_FIELD_NUMBER: _ClassVar[int]
    SSH_KEYS_FIELD_NUMBER: _ClassVar[int]
    WISHES_FIELD_NUMBER: _ClassVar[int]
    instance_id: str
    generation: int
    lineage_key: bytes
    certificate: bytes
    new_lineage_key: bytes
    ssh_keys: _containers.RepeatedCompositeFieldContainer[SshKey]
    wishes: Wishes
    def __init__(self, instance_id: _Optional[str] = ..., generation: _Optional[int] = ..., lineage_key: _Optional[bytes] = ..., certificate: _Optional[bytes] = ..., new_lineage_key: _Optional[bytes] = ..., ssh_keys: _Optional[_Iterable[_Union[SshKey, _Mapping]]] = ..., wishes: _Optional[_Union[Wishes, _Mapping]] = ...) -> None: ...

class LeaveBody(_message.Message):
    __slots__ = ("instance_id", "generation", "lineage_key", "certificate")
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_KEY_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    instance_id: str
    generation: int
    lineage_key: bytes
    certificate: bytes
    def __init__(self, instance_id: _Optional[str] = ..., generation: _Optional[int] = ..., lineage_key: _Optional[bytes] = ..., certificate: _Optional[bytes] = ...) -> None: ...

class LeaveResponse(_message.Message):
    __slots__ = ("server_time_unix_ms",)
    SERVER_TIME_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    server_time_unix_ms: int
    def __init__(self, server_time_unix_ms: _Optional[int] = ...) -> None: ...

class IssueResponse(_message.Message):
    __slots__ = ("instance_id", "generation", "certificates", "trust", "server_time_unix_ms", "certificate_ttl_seconds", "renew_after_ms", "bot")
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    TRUST_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_TTL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RENEW_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    BOT_FIELD_NUMBER: _ClassVar[int]
    instance_id: str
    generation: int
    certificates: _containers.RepeatedScalarFieldContainer[bytes]
    trust: Trust
    server_time_unix_ms: int
    certificate_ttl_seconds: int
    renew_after_ms: int
    bot: str
    def __init__(self, instance_id: _Optional[str] = ..., generation: _Optional[int] = ..., certificates: _Optional[_Iterable[bytes]] = ..., trust: _Optional[_Union[Trust, _Mapping]] = ..., server_time_unix_ms: _Optional[int] = ..., certificate_ttl_seconds: _Optional[int] = ..., renew_after_ms: _Optional[int] = ..., bot: _Optional[str] = ...) -> None: ...

class Trust(_message.Message):
    __slots__ = ("cluster_name", "cluster_uuid", "host_cas", "user_cas", "server_cas", "nodes")
    CLUSTER_NAME_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_UUID_FIELD_NUMBER: _ClassVar[int]
    HOST_CAS_FIELD_NUMBER: _ClassVar[int]
    USER_CAS_FIELD_NUMBER: _ClassVar[int]
    SERVER_CAS_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    cluster_name: str
    cluster_uuid: str
    host_cas: _containers.RepeatedScalarFieldContainer[bytes]
    user_cas: _containers.RepeatedScalarFieldContainer[bytes]
    server_cas: _containers.RepeatedScalarFieldContainer[bytes]
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    def __init__(self, cluster_name: _Optional[str] = ..., cluster_uuid: _Optional[str] = ..., host_cas: _Optional[_Iterable[bytes]] = ..., user_cas: _Optional[_Iterable[bytes]] = ..., server_cas: _Optional[_Iterable[bytes]] = ..., nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("name", "host", "port")
    NAME_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    name: str
    host: str
    port: int
    def __init__(self, name: _Optional[str] = ..., host: _Optional[str] = ..., port: _Optional[int] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("reason", "reason_class", "message", "nonce", "server_time_unix_ms", "retry_after_ms")
    REASON_FIELD_NUMBER: _ClassVar[int]
    REASON_CLASS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    reason: str
    reason_class: str
    message: str
    nonce: bytes
    server_time_unix_ms: int
    retry_after_ms: int
    def __init__(self, reason: _Optional[str] = ..., reason_class: _Optional[str] = ..., message: _Optional[str] = ..., nonce: _Optional[bytes] = ..., server_time_unix_ms: _Optional[int] = ..., retry_after_ms: _Optional[int] = ...) -> None: ...
