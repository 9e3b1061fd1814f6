"""Speaking with the cloud: only its own answer to our own batch counts; all else is a link that is down."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import zstandard

from cloud_sync.settings import CloudSettings
from cloud_sync.wire import MAX_ANSWER_BYTES, Broken, Late, Reply, Wire
from cloud_sync.witness import Witness
from millrace import jsontext
from millrace.settings import ConfigError, read_secret

_TOO_MUCH = frozenset({400, 413, 422})


class LinkDown(Exception):
    """No committed answer came: try again later, nothing is settled. `retry_after_s` is the cloud's own wish."""

    def __init__(self, why: str, retry_after_s: float | None = None) -> None:
        super().__init__(why)
        self.retry_after_s = retry_after_s


class TooSlow(LinkDown):
    """The request did not get through in its time: send less at once."""


class Unauthorized(LinkDown):
    """The cloud does not take our token: the data stays, and a person must look."""


class Rejected(Exception):
    """The cloud refuses this request as such, now and for ever: send less of it, down to the one row."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The cloud has committed the batch, but for the rows named in `rejected` (index -> reason)."""

    accepted: int
    duplicates: int
    rejected: dict[int, str]


class Cloud:
    """One kept connection to the cloud; used by one thread."""

    def __init__(self, settings: CloudSettings, witness: Witness | None = None) -> None:
        """`witness` adds to each batch what is known of clocks; who only asks has none."""
        self._settings, self._witness = settings, witness
        self._token = read_secret(settings.token_file)
        self._wire = Wire(settings)
        self._compressor = zstandard.ZstdCompressor(level=3)

    def another(self) -> Cloud:
        """Return the same cloud over another connection, for another thread, which says nothing of clocks."""
        return Cloud(self._settings)

    def close(self) -> None:
        """End the connection; the next request makes a new one."""
        self._wire.close()

    def submit(
        self,
        bodies: Sequence[bytes],
        minted: Mapping[str, Mapping[str, int]],
        buried: Sequence[Mapping[str, Any]] = (),
    ) -> Answer:
        """Have a batch of events (JSON objects) committed. Errors: LinkDown, Unauthorized, Rejected."""
        joined = b",".join(bodies)
        batch = hashlib.sha256(joined).hexdigest()
        clocks = self._witness.words() if self._witness is not None else {}
        rest = jsontext.dump({"batch": batch, "minted": minted, "buried": list(buried), **clocks})
        content = rest[:-1] + b',"events":[' + joined + b"]}"
        answer = self._request(
            "POST",
            "/v1/ingest",
            self._compressor.compress(content),
            {"Content-Type": "application/json", "Content-Encoding": "zstd"},
        )
        believed = _believed(answer, batch, len(bodies))
        if self._witness is not None:
            self._witness.heard(answer)
        return believed

    def has_news(self) -> bool:
        """Say whether the cloud should hear of clocks although no batch waits."""
        return self._witness is not None and self._witness.has_news()

    def upload(self, sha256: str, content: bytes) -> None:
        """Have a picture stored under its digest. Errors: LinkDown, Unauthorized, Rejected."""
        answer = self._request("PUT", f"/v1/blobs/{sha256}", content, {"Content-Type": "application/octet-stream"})
        if answer.get("sha256") != sha256:
            raise LinkDown("the answer to an upload does not speak of our picture: captive portal, or another API?")

    def audit(self) -> dict[str, Any]:
        """Return the cloud's own audit of our site. Errors: LinkDown, Unauthorized, Rejected."""
        answer = self._request("GET", "/v1/audit", b"", {})
        if not isinstance(answer.get("origins"), list):
            raise LinkDown("the answer to an audit is none: captive portal, or another API?")
        return answer

    def refresh_token(self) -> bool:
        """Read the token again; say whether it is another one."""
        try:
            token = read_secret(self._settings.token_file)
        except ConfigError:
            return False
        changed, self._token = token != self._token, token
        return changed

    def _request(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> dict[str, Any]:
        reply = self._exchange(method, path, body, headers)
        if reply.status in (401, 403) and self.refresh_token():
            reply = self._exchange(method, path, body, headers)
        where = f"{self._settings.url}{path} answered {reply.status}"
        if reply.status in (401, 403):
            raise Unauthorized(f"the cloud answered {reply.status}: check {self._settings.token_file}")
        if reply.status in _TOO_MUCH:
            raise Rejected(f"the cloud answered {reply.status}: {reply.body[:200].decode(errors='replace')}")
        if reply.status != 200:
            raise LinkDown(where + _stranger(reply), retry_after_s(reply.headers))
        if not reply.headers.get("content-type", "").startswith("application/json"):
            raise LinkDown(where + _stranger(reply))
        try:
            value = jsontext.parse(reply.body, MAX_ANSWER_BYTES)
        except jsontext.BadJson as error:
            raise LinkDown(f"{where} with what is no JSON ({error}): captive portal?") from None
        if not isinstance(value, dict):
            raise LinkDown(f"{where} with what is no JSON object: captive portal?")
        return value

    def _exchange(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Reply:
        try:
            return self._wire.request(
                method,
                path,
                body,
                {**headers, "Authorization": f"Bearer {self._token}", "Accept": "application/json"},
            )
        except Late as error:
            raise TooSlow(str(error)) from None
        except Broken as error:
            raise LinkDown(str(error)) from None


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return for how many seconds an answer asks to be left alone, or None; header names in lower case.

    A date is taken against the answer's own `Date`: our wall clock may be wrong.
    """
    wish = headers.get("retry-after", "").strip()
    if wish.isascii() and wish.isdecimal():
        return float(wish)
    until, since = _http_date(wish), _http_date(headers.get("date", ""))
    return max(0.0, (until - since).total_seconds()) if until and since else None


def _http_date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _stranger(reply: Reply) -> str:
    """Return what is odd about an answer that is not the cloud's own word, to be put after its status."""
    if location := reply.headers.get("location"):
        return f" to {location[:200]!r}: captive portal?"
    kind = reply.headers.get("content-type", "").split(";")[0] or "nothing"
    if "html" in kind:
        return f" with {kind}: captive portal?"
    if reply.status == 200:
        return f" with {kind}, not the cloud's own answer: captive portal?"
    if reply.status in (404, 405):
        return ": captive portal, or not the address of a cloud's API"
    return f" with {reply.body[:200].decode(errors='replace')!r}"


def _believed(answer: Mapping[str, Any], batch: str, rows: int) -> Answer:
    rejected = answer.get("rejected")
    counts = answer.get("accepted"), answer.get("duplicates")
    if answer.get("batch") != batch or not isinstance(rejected, list) or not all(isinstance(c, int) for c in counts):
        raise LinkDown("the answer does not speak of our batch: captive portal, or another API?")
    reasons = {}
    for row in rejected:
        if not isinstance(row, dict) or not isinstance(row.get("index"), int) or not 0 <= row["index"] < rows:
            raise LinkDown("the answer rejects rows that were not sent")
        reasons[row["index"]] = str(row.get("reason", ""))
    accepted, duplicates = int(counts[0] or 0), int(counts[1] or 0)
    if accepted + duplicates + len(reasons) != rows:
        raise LinkDown(f"the answer accounts for {accepted + duplicates + len(reasons)} of {rows} rows")
    return Answer(accepted, duplicates, reasons)
