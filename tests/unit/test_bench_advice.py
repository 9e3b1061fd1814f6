"""What `millrace bench` tells to change follows from what it found."""

from __future__ import annotations

from dataclasses import replace

from edge_gateway.bench.advice import Found, advise

GOOD = Found(
    model="parts@1",
    picture_px=(640, 480),
    input_px=(224, 224),
    is_float=False,
    broker="mosquitto",
    cores=4,
    workers=4,
    commit_rows=6,
    limit_per_s=400.0,
    share_per_s=360.0,
    ours_per_s=340.0,
    limit_cpu_ms=10.0,
    gateway_cpu_ms=10.5,
    decode_ms=1.0,
    invoke_ms=9.0,
    lone_p50_ms=12.0,
    sync_ms=0.5,
    resident_mb=110.0,
    others_cores=0.0,
)


def test_a_machine_at_its_limit_is_told_that_no_setting_gains_much() -> None:
    (line,) = advise(GOOD)
    assert line.startswith("Nothing in the settings gains much")


def test_a_gateway_far_from_the_limit_for_no_known_reason_says_how_far() -> None:
    (line,) = advise(replace(GOOD, ours_per_s=180.0))
    assert line.startswith("0.50 of what is possible")


def test_other_programs_that_keep_the_cores_busy_are_named_before_all_else() -> None:
    first, *_ = advise(replace(GOOD, others_cores=1.5, broker="embedded"))
    assert "1.5 of 4 cores busy" in first


def test_the_embedded_broker_is_told_to_make_way_for_mosquitto() -> None:
    assert any("Mosquitto" in line for line in advise(replace(GOOD, broker="embedded")))


def test_large_pictures_are_told_to_shrink_only_where_decoding_them_costs() -> None:
    large = replace(GOOD, picture_px=(1280, 720))
    assert not any("smaller" in line and "wide" in line for line in advise(large))
    assert any("3.2 times as wide" in line for line in advise(replace(large, decode_ms=5.0)))


def test_a_slow_disk_is_told_how_many_results_a_commit_needs() -> None:
    slow = replace(GOOD, sync_ms=50.0)
    assert any("store.commit_rows: 20," in line for line in advise(slow))
    assert any("which each result waits for" in line for line in advise(replace(slow, commit_rows=20)))


def test_what_a_program_reads_holds_the_ratio_and_the_advice() -> None:
    told = replace(GOOD, is_float=True).as_json()
    assert told["ratio"] == 0.944
    assert any("8-bit" in line for line in told["advice"])
