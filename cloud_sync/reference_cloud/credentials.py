"""Whom a bearer token belongs to; the site and gateway of all that is stored come from here, never from a payload."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from cloud_sync.reference_cloud.settings import CloudSettings
from millrace.settings import ConfigError, read_secret


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking: of which site, and which gateway; a reader is no gateway and may not write."""

    site: str
    gateway: str | None


class Door:
    """Knows every caller by the SHA-256 of the token."""

    def __init__(self, tokens: Sequence[tuple[str, Caller]]) -> None:
        """Take the tokens; ConfigError if one token stands for two callers."""
        self._callers: list[tuple[bytes, Caller]] = []
        for token, caller in tokens:
            taken = self.who(f"Bearer {token}")
            if taken is not None:
                raise ConfigError([f"{taken} and {caller} have the same token; make another one for one of them"])
            self._callers.append((_digest(token), caller))

    def who(self, authorization: str) -> Caller | None:
        """Return whom an Authorization header belongs to, or None; the time it takes tells nothing of the tokens."""
        scheme, _, token = authorization.partition(" ")
        asked = _digest(token.strip())
        found = None
        for digest, caller in self._callers:
            if hmac.compare_digest(digest, asked):
                found = caller
        return found if scheme.lower() == "bearer" else None


def read_door(settings: CloudSettings) -> Door:
    """Read every token file; ConfigError for one that is missing, empty, readable by others or used twice."""
    tokens = [(read_secret(one.token_file), Caller(one.site, one.gateway)) for one in settings.gateways]
    tokens += [(read_secret(one.token_file), Caller(one.site, None)) for one in settings.readers]
    return Door(tokens)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
