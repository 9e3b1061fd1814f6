"""Speaking with the cloud: only its own answer to our own batch counts; all else is a link that is down."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import urllib3
import zstandard

from cloud_sync.settings import CloudSettings
from millrace import jsontext
from millrace.settings import ConfigError, read_secret

MAX_ANSWER_BYTES = 4 << 20
MAX_RETRY_AFTER_S = 900.0
_TOO_MUCH = frozenset({400, 413, 422})


class LinkDown(Exception):
    """No committed answer came: try again later, nothing is settled. `retry_after_s` is the cloud's own wish."""

    def __init__(self, why: str, retry_after_s: float | None = None) -> None:
        super().__init__(why)
        self.retry_after_s = retry_after_s


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

    def __init__(self, settings: CloudSettings) -> None:
        self._settings = settings
        self._token = read_secret(settings.token_file)
        timeout = urllib3.Timeout(connect=settings.connect_timeout_s, read=settings.answer_timeout_s)
        options: dict[str, Any] = {"timeout": timeout, "retries": False, "maxsize": 2}
        if settings.ca_file is not None:
            options["ca_certs"] = str(settings.ca_file)
        self._pool = urllib3.PoolManager(num_pools=1, **options)
        self._compressor = zstandard.ZstdCompressor(level=3)

    def submit(
        self,
        bodies: Sequence[bytes],
        minted: Mapping[str, Mapping[str, int]],
        buried: Sequence[Mapping[str, Any]] = (),
    ) -> Answer:
        """Have a batch of events (JSON objects) committed. Errors: LinkDown, Unauthorized, Rejected."""
        joined = b",".join(bodies)
        batch = hashlib.sha256(joined).hexdigest()
        rest = jsontext.dump({"batch": batch, "minted": minted, "buried": list(buried)})
        content = rest[:-1] + b',"events":[' + joined + b"]}"
        answer = self._request(
            "POST",
            "/v1/ingest",
            self._compressor.compress(content),
            {"Content-Type": "application/json", "Content-Encoding": "zstd"},
        )
        return _believed(answer, batch, len(bodies))

    def upload(self, sha256: str, content: bytes) -> None:
        """Have a picture stored under its digest. Errors: LinkDown, Unauthorized, Rejected."""
        answer = self._request("PUT", f"/v1/blobs/{sha256}", content, {"Content-Type": "application/octet-stream"})
        if answer.get("sha256") != sha256:
            raise LinkDown("the answer to an upload is not the cloud's")

    def _request(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> dict[str, Any]:
        for refreshed in (False, True):
            status, content_type, data, retry_after_s = self._exchange(method, path, body, headers)
            if status in (401, 403) and not refreshed and self._refresh_token():
                continue
            break
        if status in (401, 403):
            raise Unauthorized(f"the cloud answered {status}: check {self._settings.token_file}")
        if status in _TOO_MUCH:
            raise Rejected(f"the cloud answered {status}: {data[:200].decode(errors='replace')}")
        if status != 200:
            raise LinkDown(f"{self._settings.url}{path} answered {status}", retry_after_s)
        if not content_type.startswith("application/json"):
            raise LinkDown(
                f"{self._settings.url}{path} answered {content_type or 'nothing'}: not the cloud's own answer"
            )
        try:
            value = jsontext.parse(data, MAX_ANSWER_BYTES)
        except jsontext.BadJson as error:
            raise LinkDown(f"the answer is no JSON: {error}") from None
        if not isinstance(value, dict):
            raise LinkDown("the answer is no JSON object")
        return value

    def _exchange(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, str, bytes, float | None]:
        try:
            response = self._pool.request(
                method,
                self._settings.url + path,
                body=body,
                headers={**headers, "Authorization": f"Bearer {self._token}", "Accept": "application/json"},
                redirect=False,
                preload_content=False,
            )
            try:
                data = response.read(MAX_ANSWER_BYTES)
            finally:
                response.release_conn()
        except urllib3.exceptions.HTTPError as error:
            self._pool.clear()
            raise LinkDown(f"{type(error).__name__}: {error}") from None
        wish = response.headers.get("retry-after", "")
        retry_after_s = min(float(wish), MAX_RETRY_AFTER_S) if wish.isdecimal() else None
        return response.status, response.headers.get("content-type", ""), data, retry_after_s

    def _refresh_token(self) -> bool:
        """Read the token again; say whether it is another one."""
        try:
            token = read_secret(self._settings.token_file)
        except ConfigError:
            return False
        changed, self._token = token != self._token, token
        return changed


def _believed(answer: Mapping[str, Any], batch: str, rows: int) -> Answer:
    rejected = answer.get("rejected")
    counts = answer.get("accepted"), answer.get("duplicates")
    if answer.get("batch") != batch or not isinstance(rejected, list) or not all(isinstance(c, int) for c in counts):
        raise LinkDown("the answer does not speak of our batch")
    reasons = {}
    for row in rejected:
        if not isinstance(row, dict) or not isinstance(row.get("index"), int) or not 0 <= row["index"] < rows:
            raise LinkDown("the answer rejects rows that were not sent")
        reasons[row["index"]] = str(row.get("reason", ""))
    accepted, duplicates = int(counts[0] or 0), int(counts[1] or 0)
    if accepted + duplicates + len(reasons) != rows:
        raise LinkDown(f"the answer accounts for {accepted + duplicates + len(reasons)} of {rows} rows")
    return Answer(accepted, duplicates, reasons)
