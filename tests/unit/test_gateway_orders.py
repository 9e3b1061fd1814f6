"""Orders to a running gateway: what means nothing is refused in words, and nothing is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_gateway.models import Models
from edge_gateway.orders import Orders
from edge_gateway.settings import ModelSettings
from edge_gateway.swaps import Swaps
from millrace.control import BadOrder
from millrace_models import bundle_path


@pytest.fixture
def orders(tmp_path: Path) -> Orders:
    bundle = bundle_path("parts")
    bound = [ModelSettings(bundle=bundle), ModelSettings(bundle=bundle), ModelSettings(bundle=bundle, name="top")]
    return Orders(Models(bound, 1_000_000), Swaps(tmp_path))


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ({"do": "dance"}, "no such order: 'dance'; there are models, swap"),
        (
            {"do": "swap", "binding": "side", "folder": "/x"},
            "no model is bound as 'side'; there are: parts, parts, top",
        ),
        ({"do": "swap", "binding": "parts", "folder": "/x"}, "2 models are bound as parts: give each a name"),
        ({"do": "swap", "binding": "top", "folder": "x"}, "folder: is no full path"),
    ],
)
def test_an_order_that_means_nothing_is_refused(orders: Orders, order: dict[str, object], said: str) -> None:
    with pytest.raises(BadOrder, match=said):
        orders.obey(order)


def test_the_models_are_listed_by_the_names_that_a_swap_takes(orders: Orders) -> None:
    models = orders.obey({"do": "models"})["models"]
    assert isinstance(models, list)
    assert [(model["binding"], model["model"]) for model in models] == [
        ("parts", "parts@1"),
        ("parts", "parts@1"),
        ("top", "parts@1"),
    ]
    assert all(model["memory_bytes"] > 60_000 for model in models)
