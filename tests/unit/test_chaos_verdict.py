"""What `millrace chaos` says at the end: whole only with an account that is, and never without one."""

from __future__ import annotations

from millrace.chaos.app import _verdict
from millrace.chaos.mischief import Fault
from millrace.chaos.oracle import Account
from millrace.chaos.reckoning import Outcome

FAULTS = [Fault("kill", "SIGKILL cloud", float(n)) for n in range(1, 101)] + [Fault("pause", "sync stopped", None)]


def _outcome(account: Account) -> Outcome:
    return Outcome(account, kills=100, duplicates_refused=3, drain_s=1.234, story="")


def test_a_whole_account_is_said_with_its_figures() -> None:
    verdict = _verdict(7, "embedded", FAULTS, _outcome(Account(promised=500)), None)
    assert verdict["ok"] is True
    assert (verdict["seed"], verdict["faults"], verdict["kills"], verdict["promised"]) == (7, 101, 100, 500)
    assert (verdict["lost"], verdict["duplicated"], verdict["out_of_order"]) == (0, 0, 0)
    assert (verdict["recovery_p50_s"], verdict["recovery_p99_s"]) == (51.0, 100.0)


def test_a_loss_a_line_that_stands_still_and_an_account_never_settled_are_not_ok() -> None:
    lossy = Account(promised=500, missing=1, complaints=["device/line-1 abcd1234: missing 7 of 1-500"])
    verdict = _verdict(7, "embedded", FAULTS, _outcome(lossy), None)
    assert (verdict["ok"], verdict["lost"]) == (False, 1)
    assert verdict["complaints"] == ["device/line-1 abcd1234: missing 7 of 1-500"]
    stuck = _verdict(7, "embedded", FAULTS, None, "no answer came")
    assert (stuck["ok"], stuck["promised"], stuck["complaints"]) == (False, None, ["no answer came"])
    assert not _verdict(7, "embedded", [], _outcome(Account(promised=1)), "gateway ended by itself")["ok"]
