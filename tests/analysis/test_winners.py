"""Which model wins where, on curves placed so that the answer is known; and what the answer says of two regimes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dlmbench.analysis.study import Study, analyse
from dlmbench.analysis.winners import pace, steps_at, winner_of
from dlmbench.report.answer import answer
from dlmbench.types import CellResult, EnergyPass, Run
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
            results.append(measured(cell, list(latency * (1 + spread * rng.normal(0, 1, 15)))))
            if batch == batches[0] and np.isfinite(level):
                values = level + HARDNESS[:prompts] + rng.normal(0, noise, prompts)
                scores += per_text(cell, "likelihood", list(values))
    cells = tuple(r.cell for r in results)
    return Run("f", "n", None, cells, (), tuple(results), tuple(scores))


def only(run: Run, delta: float = 0.0):
    """The only curve of `run` and the verdict on it."""
    (curve,) = analyse(run, draws=400).curves
    return curve, winner_of(curve, delta=delta)


# A step takes 10 ms: break-even with 0.16 s is at K = 16.
STEPS = {k: 0.01 * k for k in (4, 8, 16, 32, 64)}


@pytest.mark.parametrize(
    ("nats", "verdict", "words"),
    [
        ({4: 2.0, 8: 0.9, 16: 0.9, 32: 0.9, 64: 0.9}, "diffusion", "as good, and faster at K=8"),
        ({4: 2.0, 8: 1.5, 16: 1.3, 32: 0.9, 64: 0.9}, "baseline", "diffusion takes longer (K=32)"),
        ({4: 2.0, 8: 1.5, 16: 0.9, 32: 0.9, 64: 0.9}, "undecided", "no difference in speed is shown at equal quality"),
        (
            {4: 2.0, 8: 1.5, 16: 1.3, 32: 1.2, 64: 1.1},
            "baseline",
            "worse at every step count up to 64, a step for every",
        ),
        ({4: 2.0, 8: 1.5, 16: 1.3, 32: 1.2, 64: 1.0}, "baseline", "may be as good from K=64 on, but is slower there"),
        ({4: 2.0, 8: 1.0, 16: 1.0, 32: 1.0, 64: 1.0}, "undecided", "more prompts are needed"),
    ],
)
def test_the_two_are_laid_over_each_other(nats, verdict, words):
    curve, found = only(study(nats, STEPS))
    assert (found.verdict, curve.break_even.steps) == (verdict, pytest.approx(16))
    assert words in found.reason
    assert steps_at(curve, "faster") == (4, 8)


def test_steps_that_were_not_measured_may_still_win():
    short = {4: 0.04, 8: 0.08}
    _, row = only(study({4: 2.0, 8: 1.5}, short, base_s=0.5))
    assert row.verdict == "undecided"
    assert "larger K were not measured" in row.reason
    # The same where the largest K is slow already: more steps are slower still.
    _, slow = only(study({4: 2.0, 8: 1.5}, short, base_s=0.06))
    assert (slow.verdict, slow.parity.parity.low_steps) == ("baseline", None)
    assert "slower from there on" in slow.reason


def test_parity_that_may_lie_on_either_side_is_undecided():
    # At K = 8 diffusion is as good with P between 95 and 97.5%: parity may lie at 8, faster, or at 32, slower.
    levels = np.linspace(0.95, 1.0, 40)
    found = [only(study({8: level, 32: 0.8}, {8: 0.08, 32: 0.32}, noise=0.08))[1] for level in levels]
    between = [r for r in found if (r.parity.parity.steps, r.parity.parity.high_steps) == (8, 32)]
    assert between
    for row in between:
        assert row.verdict == "undecided"
        assert "the faster one changes" in row.reason
        assert row.parity.latency_ratio.low < 1 < row.parity.latency_ratio.high


def test_the_line_speaks_where_a_step_count_was_not_timed():
    run = study({8: 0.9, 32: 0.9, 64: 0.9}, {8: 0.08, 32: 0.32, 64: 0.64}, spread=0.01)
    lost = target_cell(8)
    results = tuple(replace(r, samples=(), status="oom") if r.cell.id == lost.id else r for r in run.results)
    found = analyse(replace(run, results=results), draws=400)
    assert pace(found.curves[0], 8) == "faster"
    won = winner_of(found.curves[0])
    assert (won.verdict, won.parity.latency_ratio) == ("diffusion", None)


def test_a_margin_can_turn_the_verdict():
    run = study({4: 2.0, 8: 1.05, 16: 1.05, 32: 1.05, 64: 1.05}, STEPS)
    assert [only(run, delta)[1].verdict for delta in (0.0, 0.1)] == ["baseline", "diffusion"]


def test_without_quality_there_is_no_winner_unless_one_step_is_too_slow():
    unknown = {k: float("nan") for k in STEPS}
    _, row = only(study(unknown, STEPS))
    assert (row.verdict, row.parity) == ("speed only", None)
    _, heavy = only(study(unknown, {k: 0.5 + 0.01 * k for k in STEPS}))
    assert heavy.verdict == "baseline"
    assert "even a single diffusion step" in heavy.reason


def two_regimes() -> Study:
    sweep = study({8: 1.5, 16: 1.3, 32: 1.2, 64: 1.1}, {8: 0.08, 16: 0.16, 32: 0.32, 64: 0.64}, base_s=0.2)
    full = study({32: 1.03}, {32: 0.32}, base_s=0.08, new=32, batches=(1, 2, 4))
    results = (*sweep.results, *full.results)
    cells = tuple(r.cell for r in results)
    return analyse(Run("f", "n", None, cells, (), results, (*sweep.text_scores, *full.text_scores)), draws=400)


def test_the_answer_tells_the_two_regimes_apart():
    text = answer(two_regimes())
    first = text.split("\n\n")[0]
    assert (
        "With fewer steps than tokens (K=8 to 32 for 64 new tokens, batch size 1), diffusion takes 0.4 of the" in first
    )
    assert "but writes worse there; at equal quality the baseline wins" in first
    # The sweep's last point takes a step for every token too: 0.64 s against 0.2 s.
    assert "(K=32 and 64 for 32 and 64 new tokens, batch sizes 1, 2 and 4), the baseline wins whatever the" in first
    assert "diffusion takes 3.2 to 4 times as long" in first
    assert "Both statements are true in their own regime" in first


def test_one_sweep_has_both_regimes_where_it_ends_at_a_step_for_every_token():
    first = answer(analyse(study({8: 2.0, 64: 0.9}, {8: 0.08, 64: 0.64}, base_s=1.0), draws=400)).split("\n\n")[0]
    assert "(K=8 for 64 new tokens, batch size 1), diffusion takes 0.08 of the baseline's time at best (K=8)" in first
    # As good only with a step for every token: that is no win where steps are saved.
    assert "but writes worse there. With one step per token" in first
    assert "(K=64 for 64 new tokens, batch size 1), diffusion takes 0.64 of the baseline's time at best" in first
    assert "(K=64); at equal quality diffusion wins." in first


def test_one_regime_is_not_called_two():
    text = answer(analyse(study({8: 1.5, 16: 1.3}, {8: 0.08, 16: 0.16}), draws=100))
    assert "regime" not in text


def test_throughput_and_energy_at_equal_quality():
    run = study({4: 2.0, 8: 0.9, 16: 0.9}, {4: 0.04, 8: 0.08, 16: 0.16})

    def with_energy(result: CellResult) -> CellResult:
        watts = 100.0
        samples = tuple(replace(s, energy_j=watts * s.latency_s) for s in result.samples)
        return replace(result, samples=samples)

    found = analyse(replace(run, results=tuple(with_energy(r) for r in run.results)), draws=200)
    curve = found.curves[0]
    shown = curve.parity("likelihood")
    assert shown.parity.steps == 8
    # 64 tokens in 0.08 and 0.16 s at 100 W.
    for side, seconds in ((curve.at(8), 0.08), (curve.baseline, 0.16)):
        assert side.throughput.median == pytest.approx(64 / seconds)
        assert side.joules_per_token.value == pytest.approx(100 * seconds / 64)
    speedup = shown.speedup
    assert (speedup.latency.value, speedup.throughput.value, speedup.energy.value) == pytest.approx((2, 2, 2))
    assert shown.energy_ratio.value == pytest.approx(0.5)
    assert shown.energy_ratio.low <= 0.5 <= shown.energy_ratio.high
    text = answer(found)
    assert (
        "at batch size 1, diffusion generates 800 (800 to 800) tokens/s for 0.125 (0.125 to 0.125) J per token" in text
    )
    assert "the baseline 400 (400 to 400) tokens/s for 0.250 (0.250 to 0.250) J per token: 0.500x (0.500 to" in text
    never = analyse(study({4: 2.0}, {4: 0.04}), draws=100).curves[0]
    assert never.parity("likelihood").energy_ratio is None


def test_energy_that_was_not_measured_is_left_out_and_a_single_reading_has_no_interval():
    run = study({4: 2.0, 8: 0.9, 16: 0.9}, {4: 0.04, 8: 0.08, 16: 0.16})
    assert "energy" not in answer(analyse(run, draws=100))
    results = tuple(replace(r, energy=EnergyPass(r.cell.id, 7, 20, 2.0, 8.0)) for r in run.results)
    curve = analyse(replace(run, results=results), draws=100).curves[0]
    joules = curve.at(curve.parity("likelihood").parity.steps).joules_per_token
    assert joules.value == pytest.approx(8 / 64)
    assert not joules.is_known
    assert ": 1.00x (no interval) the baseline's energy per token" in answer(
        analyse(replace(run, results=results), draws=100)
    )


def test_too_few_prompts_to_decide_and_slower_wherever_it_could_be_as_good():
    run = study({4: 2.0, 8: 2.0, 16: 2.0, 32: 2.0}, {k: STEPS[k] for k in (4, 8, 16, 32)}, prompts=3)
    _, row = only(run)
    assert row.parity.parity.outcome == "undecided"
    assert (row.parity.parity.low_steps, row.parity.parity.high_steps) == (None, None)
    assert row.verdict == "baseline"
    assert "beyond K=32 at best" in row.reason
