"""A whole synthetic run through the analysis: its numbers, its answer, and what it says when data are missing."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from dlmbench.analysis.study import analyse, labels_of
from dlmbench.types import Run, Score
from support.synthetic_run import LLADA, NATS, baseline_cell, cell, failed, measured, per_text, target_cell, tiny_run

# Better than the baseline (0.923) from K = 16 on.
REACHED = {None: {4: 2.0, 8: 1.5, 16: 0.85, 32: 0.85, 64: 0.85}}


@pytest.fixture(scope="module")
def study():
    return analyse(tiny_run(batches=(1, 4), blocks=(None, 16)), draws=400)


def test_curves_are_joined_with_their_baselines(study):
    assert [(c.label, c.batch_size) for c in study.curves] == [
        (f"tiny-llada, {b}", n) for n in (1, 4) for b in ("one block", "block 16")
    ]
    assert [b.cell.batch_size for b in study.baselines] == [1, 4]
    for curve in study.curves:
        assert [p.cell.steps for p in curve.points] == [4, 8, 16, 32, 64]
        assert curve.baseline is not None
        assert curve.baseline.cell.batch_size == curve.batch_size
        assert curve.missing == ()


def test_numbers_against_plain_arithmetic(study):
    run = tiny_run(batches=(1, 4), blocks=(None, 16))
    cell = target_cell(16, None, 4)
    times = [s.latency_s for r in run.results if r.cell.id == cell.id for s in r.samples if not s.is_warmup]
    base = [s.latency_s for r in run.results if r.cell.id == baseline_cell(4).id for s in r.samples if not s.is_warmup]
    point = next(c for c in study.curves if c.batch_size == 4 and "one block" in c.label).at(16)

    def of_processes(values):
        """The geometric mean of the medians of three processes, to which repetitions are dealt in turn."""
        return np.exp(np.mean([np.log(np.median(values[i::3])) for i in range(3)]))

    assert point.latency.median == pytest.approx(of_processes(times))
    assert point.throughput.median == pytest.approx(4 * 64 / of_processes(times))
    assert point.speedup.value == pytest.approx(of_processes(base) / of_processes(times))
    # The texts were scored at batch size 1 only; batch 4 has the same.
    scored = [t for t in run.text_scores if t.cell_id == target_cell(16).id and t.metric == "likelihood"]
    assert point.quality_in("likelihood").value == pytest.approx(
        sum(t.total for t in scored) / sum(t.weight for t in scored)
    )
    assert point.memory.source.startswith("resident")


def test_parity_of_the_prototypes_curve(study):
    # 1.05 - 0.923 = 0.127 nats: beyond ln 1.1 = 0.095, within ln 1.2 = 0.182.
    for curve in study.curves:
        outcomes = [curve.parity("likelihood", d).parity for d in (0.0, 0.1, 0.2)]
        assert [(p.outcome, p.steps) for p in outcomes] == [
            ("not_reached", None),
            ("not_reached", None),
            ("reached", 64),
        ]
        assert outcomes[0].points[-1].gap.value == pytest.approx(-0.127, abs=0.02)


def test_break_even_of_the_lines(study):
    # 0.15 s * B^0.2 over 0.01 s * B^0.8 a step: 15 steps at batch 1, 6.53 at batch 4.
    for curve in study.curves:
        assert curve.break_even.steps == pytest.approx(15 / curve.batch_size**0.6, rel=0.02)
        assert curve.break_even.low < curve.break_even.steps < curve.break_even.high


def test_a_baseline_that_is_never_matched_wins_at_every_batch_size(study):
    assert {v.outcome for v in study.verdicts} == {"baseline"}
    assert {v.parity for v in study.verdicts} == {"not_reached"}
    one = study.verdicts[0]
    assert (one.metric, one.margin, one.parity_steps, one.speed) == ("likelihood", 0.1, None, None)
    assert re.fullmatch(r"1[45] \(14 to 15\)", one.break_even)
    assert one.faster_steps == (4, 8)
    assert one.slower_steps == (16, 32, 64)


def test_the_verdict_names_s_parity_and_the_winner():
    run = tiny_run(batches=(1,), blocks=(None,), nats=REACHED)

    def with_baseline(factor: float) -> Run:
        def scaled(result):
            samples = tuple(replace(s, latency_s=s.latency_s * factor) for s in result.samples)
            return replace(result, samples=samples) if result.cell.model.role == "baseline" else result

        return replace(run, results=tuple(map(scaled, run.results)))

    (slower,), (between,), (faster,) = (analyse(with_baseline(f), draws=300).verdicts for f in (0.4, 1, 4))
    assert (slower.outcome, slower.parity_steps) == ("baseline", 16)
    assert slower.reason == "as good only from K=16 on, and slower there"
    # k* is 15 and K = 8 is worse: 9 to 14 steps were not measured, and may be as good and faster.
    assert (between.outcome, between.settles) == ("undecided", "step counts between")
    assert (faster.outcome, faster.parity_steps) == ("diffusion", 16)
    assert faster.reason == "as good and faster at K=16"
    assert faster.speed.value == pytest.approx(4 * 0.15 / 0.16, rel=0.03)


def test_random_weights_claim_no_quality():
    found = analyse(tiny_run(weights="random", batches=(1,), blocks=(None,)), draws=100)
    assert [(v.outcome, v.reason, v.settles) for v in found.verdicts] == [
        ("undecided", "random weights: quality not measured", "trained weights")
    ]
    assert found.curves[0].parities == ()
    assert all(c.quality == () for c in found.cells)


def test_missing_parts_are_named_and_never_crash():
    alone = analyse(tiny_run(roles=("target",), batches=(1,)), draws=50)
    assert any("need an autoregressive model" in m for m in alone.missing)
    assert alone.curves[0].break_even is None
    assert {v.baseline for v in alone.verdicts} == {None}
    assert analyse(tiny_run(roles=("baseline",)), draws=50).verdicts == ()
    assert analyse(Run("f", "n", None, (), (), ()), draws=50).verdicts == ()
    single = analyse(tiny_run(steps=(16,), batches=(1,), blocks=(None,)), draws=50)
    assert single.verdicts[0].break_even == "not known"
    unscored = analyse(tiny_run(scored=False, batches=(1,), blocks=(None,)), draws=50)
    assert unscored.verdicts[0].reason == "quality was not measured for both models"
    assert unscored.verdicts[0].break_even.startswith(("14 (", "15 ("))


def test_a_failed_cell_is_a_row_and_the_rest_stands():
    run = tiny_run(batches=(1,), blocks=(None,))
    lost = target_cell(64)
    run = replace(run, results=tuple(failed(r.cell) if r.cell.id == lost.id else r for r in run.results))
    found = analyse(run, draws=100)
    curve = found.curves[0]
    assert any("K=64 oom" in m for m in curve.missing)
    assert curve.break_even.steps == pytest.approx(15, rel=0.02)
    reached = curve.parity("likelihood", 0.2)  # its text was scored, its time is unknown
    assert reached.parity.steps == 64
    assert curve.at(64).ratio is None
    assert found.verdicts[0].parity == "not_reached"
    row = next(c for c in found.cells if c.cell.steps == 64)
    assert (row.status_text, row.latency) == ("oom", None)


def test_only_shared_prompts_are_compared():
    base, target = baseline_cell(), target_cell(8)
    results = (measured(base, [1.0] * 10), measured(target, [1.0] * 10))
    hard = 1 + 0.01 * np.sin(np.arange(80))
    easy = 0.01 * np.cos(np.arange(60))
    scores = (*per_text(base, "likelihood", hard), *per_text(target, "likelihood", hard[:60] - 0.1 + easy))
    run = Run("f", "n", None, (base, target), (), results, scores)
    parity = analyse(run, draws=100).curves[0].parity("likelihood").parity
    assert (parity.n, parity.outcome) == (60, "reached_at_smallest")
    assert parity.points[0].gap.value == pytest.approx(0.1 - np.mean(easy))


def test_a_metric_of_whole_sets_is_shown_without_parity():
    base, target = baseline_cell(), target_cell(8)
    results = (measured(base, [1.0] * 10), measured(target, [1.0] * 10))
    score = Score(target.id, "mauve", 0.7, 0.6, 0.8, None, 40, "share", True)
    found = analyse(Run("f", "n", None, (base, target), (), results, (), (score,)), draws=50)
    quality = found.curves[0].points[0].quality_in("mauve")
    assert (quality.value, quality.low, quality.high) == (0.7, 0.6, 0.8)
    assert found.curves[0].parities == ()


def test_the_same_seed_gives_the_same_numbers():
    run = tiny_run(batches=(1,), blocks=(None,))
    assert analyse(run, 100, seed=1) == analyse(run, 100, seed=1)


def test_rows_of_the_table(study):
    rows = study.cells
    assert len(rows) == 2 + 2 * 2 * 5
    assert [r.cell.steps for r in rows[:2]] == [None, None]
    by_key = {(r.cell.steps, r.block_length, r.cell.batch_size): r for r in rows}
    row = by_key[64, 64, 1]  # one block is as long as the new tokens
    assert row.quality_in("likelihood").value == pytest.approx(NATS[None][64], abs=0.06)
    assert row.latency.low < row.latency.median < row.latency.high
    assert row.throughput.median == pytest.approx(64 / row.latency.median, rel=1e-6)
    assert math.isclose(row.memory.bytes, 209 << 20)
    assert row.latency.n == 20


def test_labels_show_only_what_tells_cells_apart():
    rule = (("block_length", 16), ("commit", "threshold"), ("threshold", 0.9))
    cells = [baseline_cell(), target_cell(8, 16), cell(LLADA, rule), target_cell(8, 16, batch_size=4)]
    assert list(labels_of(cells).values()) == [
        "tiny-llama",
        "tiny-llada, low_confidence",
        "tiny-llada, threshold",  # the threshold itself follows from the rule: nothing else has it
        "tiny-llada, low_confidence",
    ]
