"""docs/models.md: every key of a manifest with its default, the figures of the card, and examples that are good."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from edge_gateway.box_styles import STYLES
from edge_gateway.bundle import MAX_LABEL_CHARS, InputSettings, Manifest
from edge_gateway.settings import GatewaySettings
from edge_gateway.window_input import WindowSettings
from millrace_models import bundle_path

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
CARD = (bundle_path("parts") / "CARD.md").read_text(encoding="utf-8")
EXAMPLES: list[dict[str, Any]] = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]


def keys_of(model: type[BaseModel], before: str = "") -> list[tuple[str, str]]:
    """Return the keys of a manifest with their defaults as the page writes them."""
    found: list[tuple[str, str]] = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += keys_of(inner, f"{name}.")
        elif name == "input":
            continue  # of one kind or another
        elif field.is_required():
            found.append((before + name, "needed"))
        else:
            words = {None: "none", "": "empty"}
            default = field.default
            if default in words.values() or default is None or default == "":
                found.append((before + name, words[default]))
            else:
                found.append((before + name, f"{default:g}" if isinstance(default, float) else str(default)))
    return found


def table(text: str) -> dict[str, str]:
    """Return key -> default of a part's table; two keys may share a row."""
    shown: dict[str, str] = {}
    for keys, defaults in re.findall(r"^\| (`[^|]+) \| ([^|]+) \| ", text, re.MULTILINE):
        names, values = keys.replace("`", "").split(", "), defaults.replace("`", "").split(", ")
        shown |= dict(zip(names, values * (len(names) // len(values)), strict=True))
    return shown


def test_every_key_of_a_manifest_is_in_the_table_with_its_default() -> None:
    before, _, after = PAGE.partition("\n## Windows of readings\n")
    of_windows, _, after = after.partition("\n## Bind models to channels\n")
    assert table(before + after) == dict(keys_of(Manifest) + keys_of(InputSettings, "input."))
    assert table(of_windows) == dict(keys_of(WindowSettings, "input."))
    assert f"1 to {MAX_LABEL_CHARS} characters each" in PAGE


@pytest.mark.parametrize(
    "figure",
    ["99.05%", "98.70% to 99.31%", "99.70%", "97.00%", "99.50%", "15 times", "66,720 bytes", "55,736", "0.47 ms"],
)
def test_the_figures_are_those_of_the_card(figure: str) -> None:
    assert figure in CARD
    assert figure.removesuffix(" times") in PAGE


def test_the_bindings_of_the_page_are_good_settings() -> None:
    settings, accelerated = [
        GatewaySettings.model_validate({"gateway": "g1", "state_dir": ".", **example})
        for example in EXAMPLES
        if "models" in example
    ]
    assert settings.models[0].serves("cam-1", "top")
    assert settings.models[1].threshold == pytest.approx(0.7)
    assert accelerated.models[0].edgetpus == ["usb:0", "pci:0"]
    assert [delegate.options for delegate in accelerated.models[1].delegates] == [{"core": "0"}, {"core": "1"}]


def test_the_manifests_of_the_page_are_good_and_one_is_there_for_each_style_of_detector() -> None:
    manifests = [
        Manifest.model_validate({**example, "sha256": "0" * 64}) for example in EXAMPLES if "sha256" in example
    ]
    (bearing,) = [manifest for manifest in manifests if isinstance(manifest.input, WindowSettings)]
    assert (bearing.task, bearing.output.limit) == ("score", 3.2)
    (foreign,) = [manifest for manifest in manifests if manifest.task == "classification"]
    assert (foreign.picture.width, foreign.labels_file) == (224, "labels.txt")
    (golden,) = [example for example in EXAMPLES if "golden" in example]
    assert [each.label for each in foreign.model_validate({**foreign.model_dump(), **golden}).golden] == [
        "ok",
        "scratch",
    ]
    assert [manifest.output.style for manifest in manifests if manifest.task == "detection"] == list(STYLES)
