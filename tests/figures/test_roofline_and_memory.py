"""Points of the figures on memory, energy, waiting and the roofline, against numbers worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from dlmbench import registry
from dlmbench.analysis.study import analyse
from dlmbench.charts.figure import specification, svg
from dlmbench.results.records import read_run
from dlmbench.types import Cell, CellResult, EnergyWindow, Run
from support.synthetic_run import LLADA, LLAMA, baseline_cell, failed, measured, target_cell, tiny_run

MIB = 1 << 20
H200 = Path(__file__).parents[2] / "docs" / "study" / "h200-random"


def figure(name: str) -> ModuleType:
    return registry.load("figures", name)


def run_of(*results: CellResult) -> Run:
    return Run(
        "run", "hand", tiny_run(batches=(1,), steps=(4,)).environment, tuple(r.cell for r in results), (), results
    )


def frame_of(name: str, run: Run) -> pd.DataFrame:
    frame = figure(name).points(run, analyse(run, draws=50))
    if (frame["kind"] != "missing").any():
        spec = specification(figure(name), frame)
        assert any(spec["datasets"].values())
        assert svg(spec).startswith("<svg")
    return frame


def timed(cell: Cell, latency_s: float, mib: int) -> CellResult:
    return measured(cell, [latency_s] * 10, mib * MIB)


# ---------------------------------------------------------------- throughput at equal memory


def test_without_oom_the_budget_is_what_both_were_measured_up_to():
    run = run_of(
        timed(baseline_cell(1), 1.0, 100),
        timed(baseline_cell(8), 1.0, 150),
        timed(target_cell(16, None, 1), 1.0, 120),
        timed(target_cell(16, None, 8), 4.0, 300),
    )
    frame = frame_of("throughput_at_equal_memory", run)
    assert set(frame["budget_bytes"]) == {150 * MIB}
    best = frame[frame["is_largest"] == True].set_index("kind")  # noqa: E712
    assert best["batch_size"].to_dict() == {"baseline": 8, "curve": 1}
    assert best["tokens_per_s"].to_dict() == {"baseline": 8 * 64.0, "curve": 64.0}


def test_where_both_ran_out_of_memory_the_budget_is_the_device():
    run = run_of(
        timed(baseline_cell(8), 1.0, 150),
        failed(baseline_cell(16)),
        timed(target_cell(16, None, 1), 1.0, 120),
        failed(target_cell(16, None, 8)),
    )
    frame = frame_of("throughput_at_equal_memory", run)
    assert set(frame["budget_bytes"]) == {float(run.environment.memory_bytes)}
    best = frame[frame["is_largest"] == True]  # noqa: E712
    assert sorted(best["batch_size"]) == [1, 8]
    assert frame[frame["kind"] == "oom"]["peak_bytes"].isna().all()
    assert "all of the device's memory" in figure("throughput_at_equal_memory").caption(frame)


def test_without_the_memory_of_two_models_nothing_is_compared():
    frame = frame_of("throughput_at_equal_memory", run_of(timed(baseline_cell(1), 1.0, 150)))
    assert frame["note"].tolist() == ["memory was not measured for two models"]


def test_a_batch_that_fits_of_one_model_alone_is_no_comparison():
    run = run_of(timed(baseline_cell(1), 1.0, 400), timed(target_cell(8, None, 1), 1.0, 300))
    frame = frame_of("throughput_at_equal_memory", run)
    assert frame["note"].tolist() == ["at no lengths is the largest batch that fits known of both models"]


def test_a_line_that_was_not_tried_at_a_larger_batch_has_no_largest():
    run = run_of(
        timed(baseline_cell(1), 1.0, 250),
        timed(baseline_cell(8), 1.0, 400),
        timed(target_cell(8, None, 1), 1.0, 100),
        timed(target_cell(8, None, 8), 1.0, 300),
        timed(target_cell(16, None, 1), 1.0, 100),
    )
    frame = frame_of("throughput_at_equal_memory", run)
    best = frame[(frame["kind"] == "curve") & (frame["is_largest"] == True)]  # noqa: E712
    assert best[["steps", "batch_size"]].to_numpy().tolist() == [[8, 8]]


# ---------------------------------------------------------------- energy


def with_energy(result: CellResult, joules: float, useful: int | None, idle_w: float | None) -> CellResult:
    """Two windows of four generations, in one process."""
    samples = tuple(replace(s, useful_tokens=useful) for s in result.samples)
    memory = replace(result.memory, idle_power_w=idle_w) if result.memory else None
    windows = tuple(EnergyWindow(result.cell.id, 7, 4, 8.0, 4 * joules, 80) for _ in range(2))
    return replace(result, samples=samples, memory=memory, energy=windows)


def test_energy_is_per_useful_token_gross_and_net():
    run = run_of(with_energy(timed(target_cell(16), 2.0, 100), 320.0, 32, 50.0))
    row = frame_of("energy_per_token", run).iloc[0]
    # 320 J for 32 useful tokens; 50 W for 2 s are 100 J of them.
    assert (row["tokens"], row["j_per_token"], row["net_j_per_token"]) == (
        "useful",
        pytest.approx(10),
        pytest.approx(6.875),
    )
    assert row["windows"] == 2
    assert pd.isna(row["j_per_token_low"])  # one process has no interval


def test_energy_is_per_new_token_where_no_token_is_known_to_be_useful():
    run = run_of(with_energy(timed(target_cell(16), 0.1, 100), 32.0, None, None))
    row = frame_of("energy_per_token", run).iloc[0]
    assert (row["tokens"], row["j_per_token"]) == ("new", pytest.approx(0.5))
    assert pd.isna(row["net_j_per_token"])


def test_without_a_counter_energy_says_so():
    frame = frame_of("energy_per_token", run_of(timed(target_cell(16), 0.1, 100)))
    assert frame["note"].tolist() == ["cpu has no energy counter that could be read"]


@pytest.mark.parametrize(
    "name", ["energy_per_token", "measured_vs_roofline", "throughput_vs_batch_size", "time_to_text"]
)
def test_where_no_cell_was_timed_that_is_the_reason(name):
    assert frame_of(name, run_of(failed(target_cell(16))))["note"].tolist() == ["no cell was timed"]


# ---------------------------------------------------------------- time to text


def test_with_one_block_the_first_text_is_the_full_text():
    run = run_of(
        timed(baseline_cell(), 0.2, 100), timed(target_cell(16), 0.3, 100), timed(target_cell(16, 16), 0.3, 100)
    )
    frame = frame_of("time_to_text", run).set_index("first_text_tokens")
    assert frame["first_text_s"].to_dict() == {1: 0.01, 64: 0.3, 16: 0.05}
    assert frame["latency_s"].to_dict() == {1: 0.2, 64: 0.3, 16: 0.3}


def test_timed_cells_without_a_trace_have_no_first_text():
    run = run_of(replace(timed(target_cell(16), 0.3, 100), traced=None))
    assert frame_of("time_to_text", run)["note"].tolist() == ["no cell was traced"]


def test_one_workload_is_drawn_with_both_times_of_each_setting():
    cells = [target_cell(k, 16, b, 64, new) for k in (4, 16) for b in (1, 2, 4) for new in (16, 32)]
    frame = frame_of("time_to_text", run_of(*(timed(c, 0.1, 10) for c in cells)))
    assert len(frame) == 12
    spec = specification(figure("time_to_text"), frame)
    assert spec["facet"]["sort"] == ["64 prompt tokens, 32 new tokens"]
    rows = [row for rows in spec["datasets"].values() for row in rows]
    assert sorted((r["x"], r["first_text_s"], r["latency_s"]) for r in rows) == [(4, 0.05, 0.1), (16, 0.05, 0.1)]
    assert "Shown at batch size 1" in figure("time_to_text").caption(frame)


# ---------------------------------------------------------------- roofline


def test_without_a_hardware_row_there_is_no_floor():
    frame = frame_of("measured_vs_roofline", run_of(timed(baseline_cell(), 0.2, 100)))
    assert frame["note"].tolist() == ["no hardware row for 'cpu', so its floor is not known"]


def test_the_floor_of_an_8b_decode_is_reading_its_weights():
    """16.0 GB of weights a token at 4.8 TB/s; B = 1 is far left of the ridge, hence limited by memory."""
    models = (replace(LLAMA, source="8b", weights="random"), replace(LLADA, source="8b", weights="random"))
    cells = (baseline_cell(1, 1, 2, models[0]), target_cell(2, None, 64, 256, 256, models[1]))
    cells = tuple(replace(c, precision="bfloat16", engine="hf") for c in cells)
    run = run_of(*(timed(c, 10.0, 100) for c in cells))
    assert run.environment is not None
    run = replace(run, environment=replace(run.environment, device="NVIDIA H200"))
    frame = frame_of("measured_vs_roofline", run).set_index("kind")
    decode = frame.loc["baseline"]
    # Two forwards (the prompt of one token, then one more), weights without the embedding table.
    assert decode["floor_s"] == pytest.approx(2 * 2 * 7.505e9 / 4.8e12, rel=0.01)
    assert decode["ratio"] == pytest.approx(10.0 / decode["floor_s"])
    caption = figure("measured_vs_roofline").caption(frame.reset_index())
    assert "the floor is memory-bound: " in caption
    assert "; compute-bound: " in caption
    assert (decode["regime"], frame.loc["curve"]["regime"]) == ("memory", "compute")
    assert (
        decode["intensity_flop_per_byte"]
        < decode["ridge_flop_per_byte"]
        < frame.loc["curve"]["intensity_flop_per_byte"]
    )


def test_a_timed_cell_without_a_plan_of_forwards_has_no_floor(monkeypatch):
    monkeypatch.setattr(figure("measured_vs_roofline"), "bounds_of", lambda cell: None)
    run = run_of(timed(replace(baseline_cell(), model=replace(LLAMA, source="8b", weights="random")), 0.2, 100))
    assert run.environment is not None
    run = replace(run, environment=replace(run.environment, device="NVIDIA H200"))
    why = "no timed cell has a sampler that plans its forwards, so no floor is known"
    assert frame_of("measured_vs_roofline", run)["note"].tolist() == [why]


@pytest.mark.parametrize(
    "name", ["energy_per_token", "measured_vs_roofline", "throughput_at_equal_memory", "time_to_text"]
)
def test_the_measured_run_has_points_of_every_kind_of_cost(name):
    run = read_run(H200)
    frame = frame_of(name, run)
    assert {"baseline", "curve"} <= set(frame["kind"])
    assert (frame["weights"] == "random").all()
    if name == "measured_vs_roofline":
        assert (frame["ratio"] > 1).all()  # nothing is faster than the device
        assert set(frame["regime"]) == {"memory", "compute"}
    json.dumps(specification(figure(name), frame), allow_nan=False)
