"""The tables of docs/reliability.md, made from docs/fault-runs.jsonl: what was done to it, how often, what was lost.

Run `PYTHONPATH=tests python -m faults.table` to write them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from faults.record import ROOT, Run, path_digest, recorded

PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- fault runs begin: written by tests/faults/table.py -->", "<!-- fault runs end -->"
PEERS = "side by side"
PROGRAMS = ("agent", "gateway", "sync", "cloud")
RECORDED = ("spool", "store", "gateway")
ENDS = ("gateway", "device")


@dataclass(frozen=True, slots=True)
class Fault:
    """A row of the verdict: how many runs are wanted, of each of its variants; without any, every run counts for it."""

    name: str
    says: str
    wanted: int
    variants: tuple[str, ...] = ()


FAULTS = (
    Fault("kills", "SIGKILL of a random process, Mosquitto without persistence", 1000, ("mosquitto, shipped",)),
    Fault("kills", "the same on amqtt", 200, ("embedded, shipped",)),
    Fault(
        "kills", "the same, all that devices hold on disk; at each broker", 200, ("mosquitto, power", "embedded, power")
    ),
    Fault(
        "kills",
        "the same, all that devices hold in memory; at each broker",
        200,
        ("mosquitto, process", "embedded, process"),
    ),
    Fault("crash points", "death at a named point, each point of each program 20 times", 20, PROGRAMS),
    Fault("power cuts", "power cut, replayed from a recording of the real programs; of each of three", 1000, RECORDED),
    Fault("tears", "a file truncated, zeroed, flipped, overwritten or gone", 500),
    Fault("full disk", "disk filled and freed", 200),
    Fault("link flaps", "the link to the cloud cut and back", 1000),
    Fault("link answers", "black holes, drip, 500, 429, HTML, lost answers", 10_000),
    Fault("backlog", "offline backlog of 1,000,000 rows, of a gateway and of a device", 3, ENDS),
    Fault("clock", "clock ± 1 day, ± 3 years, 1970, back and forth", 50),
    Fault("stopped", "SIGSTOP for 60 s", 50),
    Fault("read only", "the disk goes read-only or fails", 50),
    Fault("exhausted", "descriptors and memory used up", 50),
    Fault(
        "set back",
        "backup restored, card cloned, gateway replaced, a database lost; each 20 times",
        20,
        ("power", "process"),
    ),
    Fault("versions", "old program, new program, old again, with a backlog", 1),
    Fault("soak", "everything at random, 50 devices × 2/s, 1 h", 1),
    Fault("flood", "one device floods", 20),
    Fault("poison", "events: rejected, malformed, bombs, replays", 100_000),
)


def tables(runs: Sequence[Run], path: str) -> str:
    """Return the verdict and the side by side, as Markdown; only runs on this durable path count.

    Runs on former states of it are named behind the verdict, and no more.
    """
    counted = [run for run in runs if run.path == path]
    lines = [
        "| fault | wanted | done | promised | lost | duplicated | out of order | outcome |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for fault in FAULTS:
        ever = [
            run for run in runs if run.fault == fault.name and (not fault.variants or run.variant in fault.variants)
        ]
        mine = [run for run in ever if run.path == path and run.outcome != "void"]
        void = sum(run.path == path and run.outcome == "void" for run in ever)
        verdict = _verdict(mine, fault) + (f"; {void} void" if void else "")
        former = _former([run for run in ever if run.path != path])
        lines.append(_row([fault.says, _wanted(fault)], mine, "; ".join(filter(None, [verdict, former]))))
    beside = [run for run in counted if run.fault == PEERS]
    if beside:
        lines += [
            "",
            "| side by side | kills | promised | lost | duplicated | out of order |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        for variant in dict.fromkeys(run.variant for run in beside):
            lines.append(_row([variant], [run for run in beside if run.variant == variant]))
    return "\n".join(lines)


def _row(begin: list[str], runs: Sequence[Run], verdict: str | None = None) -> str:
    sums = [
        sum(getattr(run, name) for run in runs) for name in ("runs", "promised", "lost", "duplicated", "out_of_order")
    ]
    cells = [*begin, *(f"{number:,}" if runs else "" for number in sums), *([] if verdict is None else [verdict])]
    return "| " + " | ".join(cells) + " |"


def _former(runs: Sequence[Run]) -> str:
    """Say what ran before the durable path was changed last."""
    counts = {outcome: sum(run.runs for run in runs if run.outcome == outcome) for outcome in ("ok", "failed", "void")}
    said = ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items() if count)
    return f"on former states {said}" if said else ""


def _wanted(fault: Fault) -> str:
    times = f"{len(fault.variants)} × " if len(fault.variants) > 1 else ""
    return f"{times}{fault.wanted:,}"


def _verdict(runs: Sequence[Run], fault: Fault) -> str:
    """Say `failed` if any run failed; a fault of several variants is done when each of them is."""
    if any(run.outcome == "failed" for run in runs):
        return "failed"
    if not runs:
        return "not yet run"
    each = [[run for run in runs if run.variant == variant] for variant in fault.variants] or [list(runs)]
    done = [sum(run.runs for run in mine) for mine in each]
    return "ok" if min(done) >= fault.wanted else "ok so far"


def with_tables(page: str, text: str) -> str:
    """Return the page with `text` between its two marks; ValueError if it lacks one."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks {BEGIN!r} or {END!r}")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def main(page: Path = PAGE) -> None:
    """Write the page again."""
    text = tables(recorded(), path_digest())
    page.write_text(with_tables(page.read_text(encoding="utf-8"), text), encoding="utf-8")


if __name__ == "__main__":
    main()
