"""The verdict on curves placed so that it is known, and on many at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dlmbench.analysis.parity import ALPHA
from dlmbench.analysis.study import analyse
from dlmbench.analysis.verdict import pace, verdict_of, verdicts_of
from dlmbench.types import EnergyWindow, Run
from support.synthetic_run import baseline_cell, measured, per_text, target_cell

N = 60
HARDNESS = np.random.default_rng(3).normal(0, 0.1, N)


def study(
    nats: dict[int, float],
    seconds: dict[int, float],
    base_s: float = 0.16,
    new: int = 64,
    batches: tuple[int, ...] = (1,),
    base_nats: float = 1.0,
    spread: float = 0.0,
    prompts: int = N,
    noise: float = 0.02,
) -> Run:
    """A curve of given quality and times against a baseline of 1 nat a token and `base_s`."""
    rng = np.random.default_rng(8)
    results, scores = [], []
    for batch in batches:
        base = baseline_cell(batch, new=new)
        cells = [(base, base_s, base_nats)]
        cells += [(target_cell(k, None, batch, new=new), seconds[k], nats[k]) for k in seconds]
        for cell, latency, level in cells:
            results.append(measured(cell, list(latency * (1 + spread * rng.normal(0, 1, 15))), processes=3))
            if batch == batches[0] and np.isfinite(level):
                values = level + HARDNESS[:prompts] + rng.normal(0, noise, prompts)
                scores += per_text(cell, "likelihood", list(values))
    cells = tuple(r.cell for r in results)
    return Run("f", "n", None, cells, (), tuple(results), tuple(scores))


def only(run: Run, delta: float = 0.0):
    """The only curve of `run` and the verdict on it at one margin."""
    (curve,) = analyse(run, draws=400).curves
    return curve, verdict_of(curve, curve.parity("likelihood", delta))


# A step takes 10 ms: break-even with 0.16 s is at K = 16.
STEPS = {k: 0.01 * k for k in (4, 8, 16, 32, 64)}


@pytest.mark.parametrize(
    ("nats", "outcome", "words", "settles"),
    [
        ({4: 2.0, 8: 0.9, 16: 0.9, 32: 0.9, 64: 0.9}, "diffusion", "as good and faster at K=8", ""),
        ({4: 2.0, 8: 1.5, 16: 1.3, 32: 0.9, 64: 0.9}, "baseline", "as good only from K=32 on, and slower there", ""),
        ({4: 2.0, 8: 1.5, 16: 0.9, 32: 0.9, 64: 0.9}, "undecided", "times are not shown to differ", "more processes"),
        (
            {4: 2.0, 8: 1.5, 16: 1.3, 32: 1.2, 64: 1.1},
            "baseline",
            "worse at every K measured up to 64, a step for every",
            "",
        ),
        (
            {4: 2.0, 8: 1.5, 16: 1.3, 32: 1.2, 64: 1.0},
            "baseline",
            "may be as good from K=64 on, but is slower there",
            "",
        ),
        ({4: 2.0, 8: 1.0, 16: 1.0, 32: 1.0, 64: 1.0}, "undecided", "whether diffusion is as good", "more prompts"),
    ],
)
def test_the_two_are_laid_over_each_other(nats, outcome, words, settles):
    curve, found = only(study(nats, STEPS))
    assert (found.outcome, curve.break_even.steps) == (outcome, pytest.approx(16))
    assert words in found.reason
    assert found.settles.startswith(settles)
    assert bool(found.settles) == (outcome == "undecided")
    assert found.faster_steps == (4, 8)
    assert found.slower_steps == (32, 64)
    assert found.evidence == (baseline_cell().id, *(target_cell(k).id for k in STEPS))


def test_steps_that_were_not_measured_may_still_win():
    short = {4: 0.04, 8: 0.08}
    _, found = only(study({4: 2.0, 8: 1.5}, short, base_s=0.5))
    assert (found.outcome, found.settles) == ("undecided", "larger K")
    # The same where the largest K is slow already: more steps are slower still.
    _, slow = only(study({4: 2.0, 8: 1.5}, short, base_s=0.06))
    assert (slow.outcome, slow.low_steps) == ("baseline", None)
    assert "slower from there on" in slow.reason


def test_parity_that_may_lie_on_either_side_is_undecided():
    # At K = 8 diffusion is neither worse nor shown to be as good; at 32 it is as good, and slower.
    _, found = only(study({8: 0.998, 32: 0.8}, {8: 0.08, 32: 0.32}, noise=0.08))
    assert (found.low_steps, found.parity_steps) == (8, 32)
    assert found.outcome == "undecided"
    assert "where the faster model changes" in found.reason
    assert found.speed.low < 1 < found.speed.high


def test_a_step_count_that_was_not_timed_lies_between_those_that_were():
    run = study({8: 0.9, 32: 0.9, 64: 0.9}, {8: 0.08, 32: 0.32, 64: 0.64}, spread=0.01)

    def without(steps: int):
        lost = target_cell(steps).id
        results = tuple(replace(r, samples=(), status="oom") if r.cell.id == lost else r for r in run.results)
        return analyse(replace(run, results=results), draws=400).curves[0]

    assert pace(without(64), 64) == "slower"  # as 32 is
    assert pace(without(8), 8) == "unknown"  # a line beyond the others decides nothing
    assert [pace(without(4), k) for k in (12, 20)] == ["faster", "slower"]  # between 8 and 32, k* is 16
    (verdict,) = verdicts_of([without(8)])
    assert (verdict.outcome, verdict.speed) == ("undecided", None)


def test_a_margin_can_turn_the_verdict_and_the_leading_one_is_ten_percent():
    run = study({4: 2.0, 8: 1.05, 16: 1.05, 32: 1.05, 64: 1.05}, STEPS)
    assert [only(run, delta)[1].outcome for delta in (0.0, 0.1)] == ["baseline", "diffusion"]
    (verdict,) = verdicts_of(analyse(run).curves)
    assert (verdict.outcome, verdict.metric, verdict.margin) == ("diffusion", "likelihood", 0.1)


def test_without_quality_there_is_no_winner_but_speed_is_stated():
    (verdict,) = verdicts_of(analyse(study({k: float("nan") for k in STEPS}, STEPS)).curves)
    assert (verdict.outcome, verdict.metric, verdict.faster_steps) == ("undecided", None, (4, 8))
    assert verdict.settles == "scores of both models"


def test_diagnostics_never_win():
    """Texts that repeat themselves less are not better texts: no parity, and so no verdict, by such a metric."""
    run = study({8: float("nan")}, {8: 0.08})
    scores = [*per_text(target_cell(8), "repetition", [0.0] * 50), *per_text(baseline_cell(), "repetition", [0.5] * 50)]
    (curve,) = analyse(replace(run, text_scores=tuple(scores))).curves
    assert curve.parities == ()
    assert verdicts_of([curve])[0].outcome == "undecided"


def test_too_few_prompts_decide_nothing():
    (verdict,) = verdicts_of(analyse(study({4: 2.0, 8: 2.0}, {4: 0.4, 8: 0.8}, prompts=31)).curves)
    assert (verdict.outcome, verdict.settles) == ("undecided", "32 prompts or more")
    assert "31 prompts are too few" in verdict.reason


def test_what_is_faster_and_worse_is_named():
    curve, _ = only(study({4: 2.0, 8: 1.5, 16: 1.3, 32: 1.2, 64: 1.0}, STEPS))
    worse = [p.steps for p in curve.headline().parity.points if p.p_worse_jointly <= ALPHA / 2]
    assert tuple(k for k in worse if pace(curve, k) == "faster") == (4, 8)


def test_many_verdicts_are_tested_together():
    """Holm: each is tested at ALPHA over the number of those still open."""
    runs = [study({8: 0.9, 64: 0.9}, {8: 0.08, 64: 0.64}), study({8: 1.0, 64: 1.0}, {8: 0.08, 64: 0.64})]
    curves = [analyse(run).curves[0] for run in runs]
    assert [c.headline().parity.delta for c in curves] == [0.1, 0.1]
    clear, close = curves[0], replace(curves[1], parities=tuple(p for p in curves[1].parities if not p.parity.delta))
    found = verdicts_of([clear, clear, close])
    assert [v.outcome for v in found] == ["diffusion", "diffusion", "undecided"]
    assert [v.alpha for v in found] == pytest.approx([ALPHA / 3, ALPHA / 3, ALPHA])


def test_energy_and_throughput_at_equal_quality():
    run = study({4: 2.0, 8: 0.9, 16: 0.9}, {4: 0.04, 8: 0.08, 16: 0.16})
    watts = 100.0

    def metered(result, processes=(7, 8, 9)):
        seconds = result.timed[0].latency_s
        windows = (EnergyWindow(result.cell.id, p, 40, 40 * seconds, 40 * watts * seconds, 40) for p in processes)
        return replace(result, energy=tuple(windows))

    curve = analyse(replace(run, results=tuple(map(metered, run.results)))).curves[0]
    shown = curve.parity("likelihood")
    assert shown.parity.steps == 8
    # 64 tokens in 0.08 and 0.16 s at 100 W.
    for side, seconds in ((curve.at(8), 0.08), (curve.baseline, 0.16)):
        assert side.throughput.median == pytest.approx(64 / seconds)
        assert side.joules_per_token.value == pytest.approx(watts * seconds / 64)
        joules = side.joules_per_token
        assert (joules.low, joules.high) == pytest.approx((joules.value, joules.value))
    assert verdict_of(curve, shown).speed.value == pytest.approx(2)
    alone = analyse(replace(run, results=tuple(metered(r, (7,)) for r in run.results))).curves[0]
    joules = alone.at(8).joules_per_token
    assert joules.value == pytest.approx(watts * 0.08 / 64)
    assert not joules.is_known


def test_too_few_repetitions_are_the_reason_and_not_a_difference_that_is_not_shown():
    run = study({8: 0.9, 64: 0.9}, {8: 0.08, 64: 0.64})
    few = tuple(replace(r, samples=tuple(s for s in r.samples if s.index < 5)) for r in run.results)
    (verdict,) = verdicts_of(analyse(replace(run, results=few)).curves)
    assert verdict.outcome == "undecided"
    assert "too little was timed" in verdict.reason
    assert verdict.settles == "3 processes with at least 3 repetitions each, or 6 repetitions in one process"


def test_a_faster_step_count_that_is_as_good_keeps_the_baseline_from_winning():
    """Quality that falls again with more steps: S_parity is beyond, yet a small K is as good and faster."""
    run = study({4: 1.0, 8: 1.0, 64: 1.5}, {4: 0.04, 8: 0.08, 64: 0.64}, base_s=2.0)
    _, found = only(run, 0.1)
    assert found.outcome == "undecided"
    assert "a faster K may be as good" in found.reason


def test_what_lies_between_two_measured_step_counts_keeps_the_baseline_from_winning():
    """K = 8 is worse and K = 64 as good and slower: k* is 15, so 9 to 14 steps may be as good and faster."""
    _, found = only(study({8: 1.5, 64: 0.9}, {8: 0.08, 64: 0.64}, base_s=0.15))
    assert (found.outcome, found.settles) == ("undecided", "step counts between")
    _, slow = only(study({8: 1.5, 64: 0.9}, {8: 0.08, 64: 0.64}, base_s=0.06))
    assert slow.outcome == "baseline"


def test_a_disturbed_machine_is_the_reason_where_it_is():
    run = study({8: 0.9, 64: 0.9}, {8: 0.08, 64: 0.64})
    busy = tuple(replace(r, samples=tuple(replace(s, host_busy=0.6) for s in r.samples)) for r in run.results)
    (verdict,) = verdicts_of(analyse(replace(run, results=busy)).curves)
    assert (verdict.outcome, verdict.settles) == ("undecided", "a quiet machine")


def test_a_failed_baseline_is_not_replaced_by_that_of_another_engine():
    run = study({8: 0.9, 64: 0.9}, {8: 0.08, 64: 0.64})
    base = run.results[0]
    other = measured(replace(base.cell, engine="hf"), [5.0] * 15, processes=3)
    lost = replace(base, status="oom", reason="needs 90 GiB", samples=())
    cells = (lost.cell, other.cell, *run.cells[1:])
    (curve,) = analyse(replace(run, cells=cells, results=(lost, other, *run.results[1:]))).curves
    assert all(p.ratio is None for p in curve.points)
    assert any("needs 90 GiB" in m for m in curve.missing)
    assert verdicts_of([curve])[0].outcome == "undecided"
