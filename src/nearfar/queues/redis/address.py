"""Addresses of queues in Redis: ``redis://[user[:password]@]host[:port]/database/name[?options]``."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from nearfar.errors import AddressError
from nearfar.net.schemes import shown

PASSWORD = "NEARFAR_REDIS_PASSWORD"
"""The environment variable with the password, if neither the address nor its ``password-file`` gives one."""
PORT = 6379
_NAME = re.compile(r"[\w.-]{1,200}", re.ASCII)
_SCHEMES = {"redis": False, "rediss": True, "valkey": False, "valkeys": True}
_OPTIONS = {"password-file", "ca", "cert", "key"}


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where a queue is. Text forms never contain the password; a pickle, for a child process, does."""

    scheme: str
    host: str
    port: int
    database: int
    name: str
    user: str = ""
    password: str = field(default="", repr=False)
    password_file: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `text`; raises `AddressError` with the reason if it is not such an address."""
        safe = shown(text)
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise AddressError(f"cannot read the address {safe!r}: {error}") from None
        database, _, name = parts.path.lstrip("/").partition("/")
        number_ok = database.isascii() and database.isdigit() and len(database) < 10
        if parts.scheme not in _SCHEMES or not parts.hostname or not number_ok or not _NAME.fullmatch(name):
            raise AddressError(
                f"cannot read the address {safe!r}: expected {parts.scheme}://host:port/database/name, such"
                f" as redis://127.0.0.1:{PORT}/0/pictures; a name has letters, digits, '.', '_' and '-'"
            )
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if unknown := sorted(options.keys() - _OPTIONS):
            known = ", ".join(sorted(_OPTIONS))
            raise AddressError(
                f"the address {safe!r} has the unknown option {unknown[0]!r}: known are {known}"
            )
        if not _SCHEMES[parts.scheme] and (tls := sorted(options.keys() & {"ca", "cert", "key"})):
            raise AddressError(
                f"the address {safe!r} has the option {tls[0]!r}, which is for TLS: begin with rediss://"
            )
        return cls(
            parts.scheme,
            parts.hostname,
            PORT if port is None else port,
            int(database),
            name,
            unquote(parts.username or ""),
            unquote(parts.password or ""),
            options.get("password-file", ""),
            options.get("ca", ""),
            options.get("cert", ""),
            options.get("key", ""),
        )

    def __str__(self) -> str:
        user = f"{quote(self.user)}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        files = {"password-file": self.password_file, "ca": self.ca, "cert": self.cert, "key": self.key}
        query = "&".join(f"{option}={quote(value)}" for option, value in files.items() if value)
        place = f"{self.scheme}://{user}{host}:{self.port}/{self.database}/{self.name}"
        return f"{place}?{query}" if query else place

    @property
    def tls(self) -> bool:
        return _SCHEMES[self.scheme]

    def settings(self) -> dict[str, Any]:
        """The arguments of a connection of redis-py. Raises `AddressError` for an unreadable password."""
        password = self.password or self._read_password() or os.environ.get(PASSWORD) or None
        settings: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "db": self.database,
            "username": (self.user or None) if password else None,
            "password": password,
        }
        if self.tls:
            settings |= {
                "ssl_ca_certs": self.ca or None,
                "ssl_certfile": self.cert or None,
                "ssl_keyfile": self.key or None,
                "ssl_cert_reqs": "required",
                "ssl_check_hostname": True,
            }
        return settings

    def _read_password(self) -> str:
        if not self.password_file:
            return ""
        try:
            return Path(self.password_file).expanduser().read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError, RuntimeError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise AddressError(f"cannot read the password in {self.password_file}: {why}") from None
