"""The tables in README.md, README.zh-CN.md and docs/performance.md, made from docs/bench.json, the run that is kept.

page.py writes them again; page.py --keep first makes build/bench.json the run that is kept.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "docs" / "bench.json"
BEGIN, END = "<!-- bench begin: written by bench/page.py -->", "<!-- bench end -->"
ENGLISH = ("measured", "here", "beside it", "judged (least to most)", "bar", "holds")
CHINESE = ("测量项", "本机", "对照", "判定值（最小至最大）", "指标", "达到")
IN_SHORT = ("frames", "path", "readings", "store", "swap", "runtimes", "answers", "footprint")
"""The rows that the READMEs show, of what has a bar."""


def whole(run: dict[str, Any]) -> str:
    """Return the table of everything, and what was left out."""
    left_out = [f"Left out: {why}." for why in run["left_out"]]
    return "\n\n".join([_head(run), _table(ENGLISH, run["measures"]), *left_out])


def short(run: dict[str, Any], words: Sequence[str]) -> str:
    """Return the table of a README, its head in these words."""
    return _table(words, [one for one in run["measures"] if one["bar"] and one["row"] in IN_SHORT])


PAGES = {
    "README.md": lambda run: short(run, ENGLISH),
    "README.zh-CN.md": lambda run: short(run, CHINESE),
    "docs/performance.md": whole,
}


def between(text: str) -> str:
    """Return what stands between the marks of a page."""
    return text.split(BEGIN)[1].split(END, maxsplit=1)[0].strip("\n")


def write() -> None:
    """Write each page's table again."""
    run = json.loads(KEPT.read_text(encoding="utf-8"))
    for name, table in PAGES.items():
        page = ROOT / name
        text = page.read_text(encoding="utf-8")
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        page.write_text(f"{before}{BEGIN}\n\n{table(run)}\n\n{END}{after}", encoding="utf-8")


def _head(run: dict[str, Any]) -> str:
    machine = dict(run["machine"])
    processor, cores, python = machine.pop("processor"), machine.pop("cores"), machine.pop("python")
    packages = ", ".join(f"{name} {version}" for name, version in machine.items())
    return (
        f"Profile `{run['profile']}`, {run['date']}, {run['seconds']} s in all: {processor}, {cores} cores,"
        f" Python {python}; {packages}."
    )


def _table(head: Sequence[str], measures: Sequence[dict[str, Any]]) -> str:
    lines = [head, ["---"] * len(head), *(_line(one) for one in measures)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _line(one: dict[str, Any]) -> list[str]:
    beside = "" if not one["what"] else f"{_number(one['against'])}: {one['what']}"
    sign = "+" if "+" in one["bar"] and one["judged"] > 0 else ""
    judged = sign + _number(one["judged"])
    if one["rounds"] > 1 and one["spread"]:
        least, most = map(_number, one["spread"])
        judged += f" ({least} to {most})"
    bar = one["bar"].replace("<=", "≤").replace(">=", "≥").replace(" x", " ×")
    holds = "" if not one["bar"] else "yes" if one["ok"] else "**no**"
    return [one["measure"], _number(one["value"]), beside, judged if one["bar"] else "", bar, holds]


def _number(value: float) -> str:
    """Return a number with three digits that count, or all before the point."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.5f}"


if __name__ == "__main__":
    if "--keep" in sys.argv[1:]:
        shutil.copy(ROOT / "build" / "bench.json", KEPT)
    write()
