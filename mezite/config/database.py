"""``database:`` of the server's configuration: which one, and how it is reached."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import field

from mezite.config.files import read_small
from mezite.config.reading import Section
from mezite.discreet import Discreet

SQLITE, POSTGRES = "sqlite", "postgres"
MAX_PASSWORD_FILE = 4096
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_SSL_FILES = ("sslrootcert", "sslcert", "sslkey")
_POSTGRES_KEYS = ("driver", "host", "port", "user", "password", "password_file", "name", "sslmode",
                  *_SSL_FILES)
_LOOPBACK = ("", "localhost", "127.0.0.1", "::1")

ENVIRONMENT = {
    f"MEZITE_DATABASE_{key.upper()}": ("database", key)
    for key in ("driver", "host", "port", "user", "password", "password_file", "name", "sslmode")
}


class DatabaseConfig(Discreet, frozen=True):
    hidden = ("params",)

    driver: str = SQLITE
    params: Mapping[str, str] = field(default_factory=dict)
    """libpq's keywords and values, with :data:`POSTGRES`; a password that is not
    among them libpq takes from ``PGPASSWORD`` or the file ``PGPASSFILE``."""

    @classmethod
    def from_section(cls, section: Section) -> DatabaseConfig:
        driver = section.choice("driver", (SQLITE, POSTGRES), SQLITE)
        if driver == SQLITE:
            section.known(("driver",))
            return cls()
        section.known(_POSTGRES_KEYS)
        params = {
            "host": _several(section, "host"),
            "port": _several(section, "port"),
            "user": section.text("user", "mezite"),
            "password": _password(section),
            "dbname": section.text("name", "mezite"),
            "sslmode": section.choice("sslmode", _SSL_MODES, "") if "sslmode" in section.values else None,
            **{key: section.text(key) for key in _SSL_FILES},
        }
        given = {key: value for key, value in params.items() if value}
        _check_ports(section, given)
        return cls(driver, given)

    @property
    def is_unproven(self) -> bool:
        """Whether somebody on the way could pose as the database."""
        if self.driver != POSTGRES or self.params.get("sslmode", "").startswith("verify-"):
            return False
        hosts = self.params.get("host", "").split(",")
        return not all(host.startswith("/") or host in _LOOPBACK for host in hosts)


def _several(section: Section, key: str) -> str | None:
    """One or several, as a list or separated by commas."""
    value = section.values.get(key)
    if not isinstance(value, list):
        text = section.text(key)
        return None if text is None else ",".join(part.strip() for part in text.split(","))
    parts = [str(part) for part in value if isinstance(part, str | int) and not isinstance(part, bool)]
    if len(parts) != len(value) or not parts or not all(part and "," not in part for part in parts):
        raise section.fault(key, f"expected a text or a list of them, found {value!r}")
    return ",".join(parts)


def _check_ports(section: Section, given: Mapping[str, str]) -> None:
    ports = given.get("port", "5432").split(",")
    hosts = given.get("host", "").split(",")
    if not all(port.isascii() and port.isdigit() and 0 < int(port) < 65536 for port in ports):
        raise section.fault("port", f"expected a port from 1 to 65535, found {given['port']!r}")
    if len(ports) not in (1, len(hosts)):
        raise section.fault("port", f"{len(ports)} ports for {len(hosts)} hosts; give one, or one for each")


def _password(section: Section) -> str | None:
    text, file = section.secret("password"), section.text("password_file")
    if text and file:
        raise section.fault("password_file", "set this or password, not both")
    if file is None:
        return text
    try:
        read = read_small(Path(file), MAX_PASSWORD_FILE).decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise section.fault("password_file", f"{file}: {problem}") from None
    if not read:
        raise section.fault("password_file", f"{file} is empty")
    return read
