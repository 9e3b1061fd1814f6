"""docs/cloud-api.md: every route is named there, and the batch that it shows is one."""

from __future__ import annotations

import json
import re
from pathlib import Path

from starlette.routing import Route

from cloud_sync.reference_cloud.batch import MAX_EVENTS, read_batch
from cloud_sync.reference_cloud.blobs import SiteBlobs
from cloud_sync.reference_cloud.credentials import Door
from cloud_sync.reference_cloud.ledger import Ledger
from cloud_sync.reference_cloud.routes import MAX_PAGE_EVENTS, Api
from cloud_sync.reference_cloud.settings import CloudSettings
from millrace.clock import SystemClock

PAGE = (Path(__file__).parents[2] / "docs" / "cloud-api.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)


def test_every_route_is_named(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "cloud.db")
    settings = CloudSettings(state_dir=tmp_path)
    application = Api(settings, Door([]), ledger, SiteBlobs(tmp_path), SystemClock(), lambda _: None).application()
    routes = [route for route in application.routes if isinstance(route, Route)]
    named = set(re.findall(r"^\| `([A-Z]+) (/\S+)` \|", PAGE, re.MULTILINE))
    methods = {(method, route.path) for route in routes for method in route.methods or () if method != "HEAD"}
    ledger.close()
    assert named == methods


def test_the_batch_of_the_page_is_good_and_accounts_for_its_frame() -> None:
    batch = read_batch(EXAMPLES[0].encode(), "g1")
    assert batch.rejected == []
    assert [row.seq for row in batch.rows] == [1, 2]
    assert batch.rows[0].declared is not None
    assert (batch.rows[0].declared.origin, batch.rows[0].declared.disposition) == ("device/cam-1", "local")
    assert json.loads(EXAMPLES[1])["rejected"][0]["index"] == 1


def test_the_limits_of_the_page_are_those_of_the_code() -> None:
    assert f"0 to {MAX_EVENTS:,} CloudEvents" in PAGE
    assert f"`limit` is 1 to {MAX_PAGE_EVENTS}." in PAGE
    defaults = {name: CloudSettings.model_fields[name].default for name in ("max_body_bytes", "max_blob_bytes")}
    assert defaults == {"max_body_bytes": 8 << 20, "max_blob_bytes": 16 << 20}
    assert f"({CloudSettings.model_fields['max_connections'].default}; more are answered" in PAGE
