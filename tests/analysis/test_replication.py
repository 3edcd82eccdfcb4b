"""The rules on times: what is replicated, which noise counts, and when a ratio decides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from dlmbench.analysis.compare import compare
from dlmbench.analysis.replication import Ratio, card_ratios, estimate, latencies, logs_of, spread_of
from dlmbench.types import LAUNCH_BOUND, Cell, CellResult, Environment, NeighbourCost, Run
from support.selfchecks import a_selfcheck
from support.synthetic_run import baseline_cell, measured, sample, target_cell

ENVIRONMENT = Environment(
    *("cpu", 0, None, None, "3.11", "2.13", "5.23", "CPU", 2, 8 << 30, None, "h", "linux", "0.1.0", None)
)


def result(of: Cell, by_process: Mapping[int, Sequence[float]], **changes: object) -> CellResult:
    samples = [
        replace(sample(of, 100 * p + i, t, process_id=p), **changes)  # type: ignore[arg-type]
        for p, times in by_process.items()
        for i, t in enumerate(times)
    ]
    return CellResult(of, "ok", "", tuple(samples), None, None, "env")


def repeated(centre_s: float, n: int, seed: int, sd: float = 0.0003) -> list[float]:
    return list(centre_s * np.exp(np.random.default_rng(seed).normal(0, sd, n)))


def run(*results: CellResult) -> Run:
    return Run("run", "run", ENVIRONMENT, tuple(r.cell for r in results), (), results)


def verdicts(first: Sequence[CellResult], second: Sequence[CellResult]) -> list[str]:
    return [p.verdict for p in compare(run(*first), run(*second)).pairs]


def test_one_process_each_gives_no_verdict_on_what_processes_differ_by():
    # Two identical runs on an H200 differed by 0.6% where repetitions spread by 0.03%: 20 standard errors.
    of = baseline_cell()
    first, second = result(of, {1: repeated(1.0, 15, 1)}), result(of, {2: repeated(1.006, 15, 2)})
    assert verdicts([first], [second]) == ["no difference shown"]
    ratio = latencies([first])[of.id].over(latencies([second])[of.id])
    assert abs(ratio.log) > 10 * math.sqrt(ratio.variance)
    assert (ratio.floor, ratio.is_below(), ratio.is_above()) == (0.1, False, False)


def test_one_process_each_shows_what_exceeds_the_noise_floor():
    of = baseline_cell()
    first = result(of, {1: repeated(1.0, 6, 1)})
    for factor, verdict in ((1.09, "no difference shown"), (1.12, "slower")):
        assert verdicts([first], [result(of, {2: repeated(factor, 6, 2)})]) == [verdict]


def test_among_many_ratios_the_floor_must_be_exceeded_by_more():
    # The floor holds 95% of ratios of equal code, so one in twenty exceeds it by chance.
    cells = [baseline_cell(b) for b in range(1, 13)]
    first = [result(c, {1: repeated(1.0, 6, i)}) for i, c in enumerate(cells)]
    for factor, verdict in ((1.12, "no difference shown"), (1.17, "slower")):
        second = [result(c, {2: repeated(factor if i == 0 else 1.0, 6, 50 + i)}) for i, c in enumerate(cells)]
        assert verdicts(first, second)[0] == verdict


def test_a_measured_floor_takes_the_place_of_ten_percent():
    class Check:
        def floor(self, engine: str, processes: int, kind: str) -> float:
            return {"launch-bound": 0.02, "busy": 0.01}[kind]

    of = baseline_cell()  # one position in each forward: launch-bound
    found = latencies([result(of, {1: repeated(1.0, 6, 1)})], Check())  # type: ignore[arg-type]
    assert found[of.id].floor == 0.02
    busy = result(of, {1: repeated(1.0, 6, 1)}, positions=64 * 64)
    assert latencies([busy], Check())[of.id].floor == 0.01  # type: ignore[arg-type]


def test_the_interval_is_that_between_processes():
    of = baseline_cell()
    by_process = {p: repeated(math.exp(e), 6, p) for p, e in ((1, -0.01), (2, 0.0), (3, 0.01))}
    found = latencies([result(of, by_process)])[of.id]
    logs = list(logs_of(by_process).values())
    assert (found.processes, found.repetitions, found.is_replicated, found.df) == (3, 18, True, 2)
    assert found.variance == pytest.approx(np.var(logs, ddof=1) / 3)
    # t with 2 degrees of freedom: 4.303. The repetitions alone would give an interval 40 times as narrow.
    reach = 4.302653 * 0.01 / math.sqrt(3)
    assert math.log(found.interval().high / found.value) == pytest.approx(reach, rel=0.03)


def test_three_processes_show_three_percent():
    of = baseline_cell()
    effects = (-0.003, 0.0, 0.003)
    first = result(of, {p: repeated(math.exp(e), 6, p) for p, e in enumerate(effects)})
    second = result(of, {9 + p: repeated(1.03 * math.exp(e), 6, 9 + p) for p, e in enumerate(effects)})
    assert verdicts([first], [second]) == ["slower"]
    assert verdicts([second], [first]) == ["faster"]


def test_cells_of_one_process_are_not_independent_evidence():
    together = {1: -0.01, 2: 0.0, 3: 0.01}
    apart = [{1: -0.01, 2: 0.0, 3: 0.01}, {1: 0.01, 2: -0.01, 3: 0.0}, {1: 0.0, 2: 0.01, 3: -0.01}]
    for cells, df in (([together] * 3, 2.0), (apart, 4.0)):
        spread = spread_of(cells)
        assert spread is not None
        assert (spread.variance, spread.df) == pytest.approx((1e-4, df))
    assert spread_of([{1: 0.0}]) is None


def test_a_noisy_cell_keeps_its_own_variance_and_a_quiet_one_takes_the_pooled():
    quiet = {1: [1.0] * 3, 2: [1.0] * 3, 3: [1.0] * 3}
    noisy = {1: [0.9] * 3, 2: [1.0] * 3, 3: [1.1] * 3}
    spread = spread_of([logs_of(quiet), logs_of(noisy)])
    assert spread is not None
    own = np.var(np.log([0.9, 1.0, 1.1]), ddof=1)
    assert spread.variance == pytest.approx(own / 2)
    assert estimate(quiet, spread).variance == pytest.approx(own / 6)
    assert estimate(noisy, spread).variance == pytest.approx(own / 3)


@pytest.mark.parametrize(
    ("by_process", "suffices"),
    [
        ({1: 5}, False),
        ({1: 6}, True),
        ({1: 2, 2: 2, 3: 2}, False),
        ({1: 3, 2: 2}, False),
        ({1: 3, 2: 3}, True),  # six in two processes are more than six in one; the floor applies to both
        ({1: 3, 2: 3, 3: 3}, True),
    ],
)
def test_the_least_that_a_verdict_may_rest_on(by_process, suffices):
    of = baseline_cell()
    first = result(of, {p: repeated(1.0, n, p) for p, n in by_process.items()})
    second = result(of, {10 + p: repeated(2.0, n, p) for p, n in by_process.items()})
    assert latencies([first])[of.id].suffices is suffices
    assert verdicts([first], [second]) == ["slower" if suffices else "too few repetitions"]


def test_two_processes_are_under_the_floor():
    of = baseline_cell()
    first = result(of, {p: repeated(1.0, 6, p) for p in (1, 2)})
    second = result(of, {p: repeated(1.05, 6, p) for p in (3, 4)})
    assert verdicts([first], [second]) == ["no difference shown"]


def test_repetitions_that_depend_on_each_other_widen_the_interval():
    rng = np.random.default_rng(1)
    noise = rng.normal(size=40)
    for i in range(1, 40):
        noise[i] = 0.8 * noise[i - 1] + 0.6 * noise[i]
    times = np.exp(0.01 * noise)
    as_taken, shuffled = (estimate({1: list(t)}, None) for t in (times, rng.permutation(times)))
    assert as_taken.is_widened
    assert as_taken.variance > 4 * shuffled.variance


def test_two_modes_widen_the_interval_to_both():
    low = [*repeated(1.0, 9, 1), *repeated(1.04, 6, 2)]
    found = estimate({1: list(np.random.default_rng(0).permutation(low))}, None)
    assert found.is_widened
    assert found.interval().low < 1.0
    assert found.interval().high > 1.02


@pytest.mark.parametrize("change", [{"throttle": "thermal"}, {"other_processes": 1}])
def test_a_disturbed_cell_has_no_verdict(change):
    of = baseline_cell()
    first = result(of, {p: repeated(1.0, 6, p) for p in (1, 2, 3)})
    second = result(of, {p: repeated(1.3, 6, p) for p in (4, 5, 6)}, **change)
    assert verdicts([first], [second]) == ["disturbed"]


def test_kinds_of_work_do_not_share_their_noise():
    launches, busy = baseline_cell(1), baseline_cell(8)
    calm = result(launches, {p: repeated(1.0, 6, p) for p in (1, 2, 3)})
    wild = result(busy, {p: repeated(1.0 + 0.1 * p, 6, p) for p in (1, 2, 3)}, positions=64 * 64)
    other = result(target_cell(8), {p: repeated(1.0 + 0.1 * p, 6, p) for p in (1, 2, 3)})
    assert latencies([calm, wild, other])[launches.id].variance < 1e-6


def test_a_ratio_without_spread_is_what_it_is():
    assert Ratio(0.0, 0.0, math.inf, 0.0, True).p_value == 1.0
    assert Ratio(0.01, 0.0, math.inf, 0.0, True).is_above()
    assert not Ratio(0.01, 0.0, math.inf, 0.1, True).is_above()
    assert Ratio(0.2, 0.0, math.inf, 0.1, True).is_above()
    assert Ratio(0.2, 0.0, math.inf, 0.1, False).p_value == 1.0


@pytest.mark.parametrize(
    ("neighbours", "cost", "slowed"), [(1, 1.25, True), (0, 1.25, False), (1, 1.005, False), (None, 1.25, False)]
)
def test_a_cell_beside_busy_gpus_that_cost_it_more_than_the_noise_decides_nothing(neighbours, cost, slowed):
    result = measured(baseline_cell(), [1.0, 1.01, 0.99, 1.0, 1.02, 0.98] * 2, processes=3)
    samples = tuple(replace(s, neighbours=neighbours, positions=s.forwards) for s in result.samples)
    result = replace(result, samples=samples)
    check = replace(a_selfcheck(), neighbours=(NeighbourCost(LAUNCH_BOUND, result.cell.engine, 2, cost),))
    assert latencies([result], check)[result.cell.id].is_disturbed is slowed
    assert not latencies([result], a_selfcheck())[result.cell.id].is_disturbed


@pytest.mark.parametrize(("beside", "slowed"), [(3, False), (4, True)])
def test_a_few_repetitions_beside_busy_gpus_do_not_disturb_a_cell(beside, slowed):
    result = measured(baseline_cell(), [1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 1.0, 1.01, 0.99, 1.0] * 3, processes=3)
    timed = iter(range(len(result.timed)))
    samples = (
        replace(s, neighbours=int(not s.is_warmup and next(timed) < beside), positions=1) for s in result.samples
    )
    result = replace(result, samples=tuple(samples))
    check = replace(a_selfcheck(), neighbours=(NeighbourCost(LAUNCH_BOUND, result.cell.engine, 2, 1.25),))
    assert latencies([result], check)[result.cell.id].is_disturbed is slowed


def on_cards(of, seconds):
    """A cell with one process for each (GPU, seconds of its repetitions)."""
    samples = [
        replace(sample(of, index, latency_s, process_id=process), device_uuid=card)
        for process, (card, latency_s) in enumerate(seconds)
        for index in (3 * process, 3 * process + 1, 3 * process + 2)
    ]
    return replace(measured(of, [1.0]), samples=tuple(samples))


def test_gpus_are_compared_through_cells_that_did_not_run_on_all_of_them():
    first = on_cards(baseline_cell(), [("a", 1.0), ("b", 1.1), ("c", 1.2)])
    second = on_cards(target_cell(8), [("d", 3.9), ("a", 3.0), ("b", 3.3)])
    ratios = card_ratios([first, second])
    assert [ratios[card] / ratios["a"] for card in "abcd"] == [pytest.approx(r) for r in (1, 1.1, 1.2, 1.3)]
    assert math.prod(ratios.values()) == pytest.approx(1)


def test_gpus_that_no_cell_links_are_not_compared():
    first = on_cards(baseline_cell(), [("a", 1.0), ("b", 1.1)])
    second = on_cards(target_cell(8), [("c", 3.0), ("d", 3.3)])
    assert card_ratios([first, second]) == {}
    assert card_ratios([on_cards(baseline_cell(), [("a", 1.0), ("a", 1.1)])]) == {}
    assert card_ratios([]) == {}


def test_a_noise_floor_does_not_make_up_for_too_few_repetitions():
    few = Ratio(log=math.log(0.32), variance=0.09, df=2.2, floor=0.0, suffices=True)
    interval = few.interval()
    assert interval.high > 1
    for floor in (0.05, 0.5, 2.0):
        assert replace(few, floor=floor).p_value >= few.p_value > 0.05
