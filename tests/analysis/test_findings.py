"""Each finding appears where its cause is planted, and a clean run has none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dlmbench.analysis.findings import by_kind, findings, in_one_line
from dlmbench.analysis.replication import latencies
from dlmbench.analysis.study import analyse
from dlmbench.results import read_run
from dlmbench.types import Cell, CellResult, EnergyWindow, Finding, Run, Sample, TextScore
from support.examples import ROOT
from support.synthetic_run import ENVIRONMENT, baseline_cell, failed, measured, per_text, sample, target_cell, tiny_run

STEADY = [1.0, 1.001, 0.999, 1.002, 0.998, 1.003, 0.997, 1.0, 1.001, 0.999, 1.002, 0.998]


def run_of(*results: CellResult, scores: Sequence[TextScore] = ()) -> Run:
    return Run("f", "n", None, tuple(r.cell for r in results), (), results, tuple(scores))


def codes(run: Run) -> set[str]:
    return {f.code for f in findings(run)}


def codes_but_processes(run: Run) -> set[str]:
    """The findings, of a run whose cells are measured in a single process on purpose."""
    return codes(run) - {"few_processes"}


def changed(of: Cell, **by_index: Any) -> CellResult:
    """A steady cell whose samples' fields are set from lists, one value a repetition."""
    result = measured(of, STEADY)
    samples: list[Sample] = [
        replace(s, **{name: values[i] for name, values in by_index.items()}) for i, s in enumerate(result.timed)
    ]
    return replace(result, samples=tuple(samples))


def test_a_steady_run_has_no_findings():
    cells = (baseline_cell(), target_cell(8))
    assert codes(run_of(*(measured(c, STEADY, processes=3) for c in cells))) == set()
    assert codes(run_of(*(measured(c, STEADY) for c in cells))) == {"few_processes"}


def on_cards(of: Cell, *factors: float) -> CellResult:
    """A cell measured in three processes, each on another of these GPUs, which are slower by `factors`."""
    result = measured(of, STEADY, processes=3)
    processes = list(dict.fromkeys(s.process_id for s in result.samples))
    cards = {p: i % len(factors) for i, p in enumerate(processes)}
    samples = (
        replace(s, device_uuid=f"GPU-{cards[s.process_id]}", latency_s=s.latency_s * factors[cards[s.process_id]])
        for s in result.samples
    )
    return replace(result, samples=tuple(samples))


def test_gpus_that_differ_are_told_apart_from_processes_that_do():
    cells = (baseline_cell(), target_cell(8))
    (found,) = findings(run_of(*(on_cards(c, 1.0, 1.03) for c in cells)))
    assert (found.code, found.severity) == ("gpus_differ", "info")
    assert "2 GPUs differ by 3.0" in found.message
    slow = findings(run_of(*(on_cards(c, 1.0, 1.2) for c in cells)))
    assert ("gpus_differ", "warning") in {(f.code, f.severity) for f in slow}
    assert "gpus_differ" not in codes(run_of(*(on_cards(c, 1.0) for c in cells)))


@pytest.mark.parametrize(
    ("engine", "neighbours", "is_found"), [("hf", 1, True), ("hf", 0, False), ("native", 1, False)]
)
def test_launch_bound_cells_beside_busy_gpus_are_named(engine, neighbours, is_found):
    result = measured(replace(baseline_cell(), engine=engine), STEADY, processes=3)
    samples = tuple(replace(s, neighbours=neighbours, positions=s.forwards) for s in result.samples)
    assert ("neighbours" in codes(run_of(replace(result, samples=samples)))) is is_found


N = len(STEADY)


@pytest.mark.parametrize(
    ("code", "fields"),
    [
        ("interval_wide", {"latency_s": [1.0, 1.3] * (N // 2)}),
        ("warmup_short", {"latency_s": [1.4, 1.3, *STEADY[2:]]}),
        ("drift", {"round": [0] * 6 + [1] * 6, "latency_s": [*STEADY[:6], *(1.2 * x for x in STEADY[6:])]}),
        (
            "processes_differ",
            {"process_id": [1] * 6 + [2] * 6, "latency_s": [*STEADY[:6], *(1.1 * x for x in STEADY[6:])]},
        ),
        ("autocorrelated", {"latency_s": [1 + 0.001 * i for i in range(N)]}),
        ("two_modes", {"latency_s": [x + 0.2 * (i % 3 == 0) for i, x in enumerate(STEADY)]}),
        ("disturbed", {"other_processes": [1, 1] + [0] * (N - 2)}),
        ("disturbed", {"host_busy": [0.3] * 2 + [None] * (N - 2)}),
        ("disturbed", {"throttle": ["power_cap+sw_thermal"] * 3 + [""] * (N - 3)}),
        ("tokens_short", {"new_tokens": [64] * (N - 1) + [63]}),
        ("temperature_drift", {"temperature_c": [40] * (N - 1) + [55]}),
        ("clock_drift", {"sm_clock_mhz": [1980] * (N - 1) + [1500]}),
        ("outliers", {"latency_s": [*STEADY[:5], 5.0, *STEADY[6:]]}),
    ],
)
def test_planted_fault_is_found(code, fields):
    found = [f for f in findings(run_of(changed(target_cell(8), **fields))) if f.code == code]
    assert len(found) == 1
    assert found[0].cell_id == target_cell(8).id
    assert found[0].hint


def test_a_slow_start_is_found_among_thousands_of_repetitions():
    """An exact test counts more orders than a float can hold here: it took minutes, and its p-value was NaN."""
    times = np.random.default_rng(0).normal(1.0, 0.4, 4000).clip(0.1)
    times[:800] += 0.08
    (found,) = (f for f in findings(run_of(measured(target_cell(8), list(times)))) if f.code == "warmup_short")
    assert "the first 800 repetitions" in found.message


def test_energy_in_every_process_and_steady_sensors_are_silent():
    quiet = changed(target_cell(8), temperature_c=[40] * N, sm_clock_mhz=[1980] * N)
    windows = tuple(EnergyWindow(target_cell(8).id, p, 4, 4.0, 400.0, 40) for p in (7,))
    assert codes_but_processes(run_of(replace(quiet, energy=windows))) == set()
    two = replace(measured(target_cell(8), STEADY, processes=2), energy=windows)
    assert codes_but_processes(run_of(two)) == {"energy_windows"}


def test_energy_that_the_board_cannot_have_taken():
    passed = EnergyWindow(target_cell(8).id, 7, 10, 1.0, 400.0)  # 400 W
    of = replace(measured(target_cell(8), STEADY), energy=(passed,))
    known = {cap: replace(ENVIRONMENT, power_cap_w=cap) for cap in (None, 290.0, 385.0, 375.0)}
    found = {
        cap: codes_but_processes(replace(run_of(of), environment=environment)) for cap, environment in known.items()
    }
    above = {"energy_above_cap"}
    assert found == {None: set(), 290.0: above, 385.0: set(), 375.0: above}  # 5% more than the cap is allowed


@pytest.mark.parametrize(
    ("cells", "also"),
    [
        (1, ""),
        (2, "; also {1}"),
        (4, "; also {1}, {2} and {3}"),
        (9, "; also {1}, {2} and 6 more"),
    ],
)
def test_findings_of_one_kind_are_one_line_that_names_a_few_cells(cells, also):
    own = [target_cell(2 * k) for k in range(1, cells + 1)]
    few = [f for f in findings(run_of(*(measured(c, STEADY[:4]) for c in own))) if f.code == "few_repetitions"]
    (group,) = by_kind(few)
    assert len(group) == cells
    labels = [c.label for c in own]
    assert in_one_line(group) == f"{labels[0]}: 4 timed repetitions, too few for a verdict{also.format(*labels)}"


def test_findings_about_the_run_are_all_in_their_line():
    group = [Finding("controls_differ", "warning", None, f"{name} differs", "") for name in ("engine", "clock")]
    assert in_one_line(group) == "engine differs; clock differs"


@pytest.mark.parametrize(
    ("repetitions", "processes", "found"), [(5, 1, True), (6, 1, False), (4, 2, True), (9, 3, False), (1, 1, True)]
)
def test_few_repetitions_are_those_on_which_no_verdict_may_rest(repetitions, processes, found):
    of = measured(target_cell(8), STEADY[:repetitions], processes=processes)
    estimate = latencies([of])[of.cell.id]
    assert ("few_repetitions" in codes(run_of(of))) is found is not estimate.suffices


def test_failed_and_unmeasured_cells():
    oom, broken, absent = target_cell(8), target_cell(16), target_cell(32)
    run = run_of(failed(oom), failed(broken, "error", "boom"))
    run = replace(run, cells=(*run.cells, absent))
    found = {(f.code, f.severity) for f in findings(run)}
    assert found == {("cell_failed", "warning"), ("cell_failed", "error"), ("cells_unmeasured", "warning")}
    assert findings(run)[0].severity == "error"  # the worst first


@pytest.mark.parametrize("field", ["precision", "attention", "engine", "prompts"])
def test_controls_that_differ(field):
    other = replace(target_cell(8), **{field: "other"})
    run = run_of(measured(baseline_cell(), STEADY), measured(other, STEADY))
    assert codes_but_processes(run) == {"controls_differ"}
    assert "other" in findings(run)[0].message


def test_repetition_above_the_baselines_is_degenerate():
    base, good, bad = baseline_cell(), target_cell(8), target_cell(4)
    scores = [s for c, v in ((base, 0.05), (good, 0.14), (bad, 0.5)) for s in per_text(c, "repetition", [v] * 40)]
    found = findings(run_of(*(measured(c, STEADY) for c in (base, good, bad)), scores=scores))
    assert [(f.code, f.cell_id) for f in found if f.code != "few_processes"] == [("degenerate", bad.id)]


def test_better_than_the_truth_is_a_warning():
    cell = target_cell(8)
    scores = per_text(cell, "oracle_log_prob", [0.5] * 40) + per_text(cell, "oracle_truth", [0.85] * 40)
    assert codes_but_processes(run_of(measured(cell, STEADY), scores=scores)) == {"better_than_truth"}


def test_few_prompts_and_tokens_that_differ():
    base, target = baseline_cell(), target_cell(8)
    scores = per_text(base, "likelihood", [1.0] * 8, weight=60) + per_text(target, "likelihood", [1.0] * 8, weight=64)
    found = codes_but_processes(run_of(measured(base, STEADY), measured(target, STEADY), scores=scores))
    assert found == {"few_prompts", "tokens_differ"}


@pytest.mark.parametrize(("folder", "is_small"), [("instrument/cpu-tiny-1", True), ("h200-native", False)])
def test_tiny_models_are_noted(folder, is_small):
    assert ("small_models" in codes(read_run(ROOT / "docs/study" / folder))) == is_small


def test_random_weights_are_noted():
    assert "random_weights" in codes(tiny_run(weights="random", batches=(1,), steps=(8,)))


def test_false_alarms_are_rare():
    """Steady but noisy cells: the checks with a threshold must stay silent on almost all."""
    rng = np.random.default_rng(4)
    noisy = [measured(target_cell(k), list(rng.normal(1, 0.03, 20))) for k in range(1, 201)]
    alarms = [f for f in findings(run_of(*noisy)) if f.code in ("interval_wide", "warmup_short", "drift")]
    assert len(alarms) <= 4


def test_warm_ups_are_never_looked_at():
    cell = target_cell(8)
    cold = replace(sample(cell, 0, 99.0), is_warmup=True, new_tokens=1)
    result = replace(measured(cell, STEADY), samples=(cold, *measured(cell, STEADY).timed))
    assert codes_but_processes(run_of(result)) == set()


def test_a_step_that_gets_slower_with_their_number_is_found():
    seconds = {8: 0.08, 16: 0.16, 32: 0.32, 64: 0.67}  # 10 ms a step, then 10.9
    cells = [measured(baseline_cell(), [0.2] * 9, processes=3)]
    cells += [measured(target_cell(k), [s] * 9, processes=3) for k, s in seconds.items()]
    found = [f for f in analyse(run_of(*cells)).findings if f.code == "step_time_rises"]
    assert len(found) == 1
    assert "9% longer" in found[0].message


def test_a_baseline_measured_after_less_load_than_diffusion_is_found():
    base, target = measured(baseline_cell(), STEADY, processes=3), measured(target_cell(8), STEADY, processes=3)
    under_load = tuple(replace(s, load_s=1.0) for s in base.samples)
    for_long = tuple(replace(s, load_s=60.0) for s in target.samples)
    found = analyse(run_of(replace(base, samples=under_load), replace(target, samples=for_long)))
    assert [c.busy_before for c in found.cells] == ["under 20 s", "20 s or longer"]
    (finding,) = (f for f in found.findings if f.code == "load_differs")
    assert "the device had been busy for under 20 s before the baseline, not before K=8" in finding.message
