"""Money of a finished run, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dlmbench.analysis.cost import QualityGoal, cheapest, costs, goal_of, per_million_tokens
from dlmbench.analysis.study import analyse
from dlmbench.errors import BenchError
from support.program import fails, run
from support.synthetic_run import tiny_run

# At parity with the baseline's 0.923 nats from K = 32 on; at K = 16 far from it.
NATS = {None: {4: 2.07, 16: 1.36, 32: 0.85, 64: 0.84}}
RUN = tiny_run(batches=(1, 8), blocks=(None,), steps=(4, 16, 32, 64), repetitions=12, nats=NATS)
STUDY = analyse(RUN, draws=200)


def test_the_price_of_a_million_tokens():
    # 100 tokens in 3.6 s are a thousandth of an hour; a million take ten hours.
    assert per_million_tokens(3.6, 100, 2.5) == pytest.approx(25.0)
    assert per_million_tokens(3.6, 100, 2.5, gpus=2) == pytest.approx(50.0)


def test_every_timed_cell_has_a_cost_with_the_interval_of_its_latency():
    priced = costs(STUDY, 2.0)
    assert [c.cell.id for c in priced] == [c.cell.id for c in STUDY.cells]
    for cost, summary in zip(priced, STUDY.cells, strict=True):
        tokens = summary.cell.batch_size * summary.cell.new_tokens
        assert (cost.tokens, cost.counted) == (tokens, "new")
        assert cost.per_million == pytest.approx(summary.latency.median * 2 / 3600 / tokens * 1e6)
        assert cost.low < cost.per_million < cost.high


def test_tokens_after_the_end_of_a_text_are_not_paid_for_as_useful():
    """Two repetitions of 16 and 48 useful tokens of 64: 32 on average, so a useful token costs twice a new one."""
    first = RUN.results[0]
    samples = [s for s in first.samples if not s.is_warmup]
    useful = tuple(replace(s, useful_tokens=16 if i % 2 else 48) for i, s in enumerate(samples))
    cut = replace(RUN, results=(replace(first, samples=useful), *RUN.results[1:]))
    whole, half = (costs(analyse(r, draws=20), 2.0)[0] for r in (RUN, cut))
    assert (half.tokens, half.counted) == (32, "useful")
    assert half.per_million == pytest.approx(2 * whole.per_million)


def test_the_cheapest_way_at_parity_is_the_cheapest_of_all_that_are_at_parity():
    """AR takes 0.15 B^0.2 s, diffusion 0.01 K B^0.8: at B = 8 AR is cheapest, and S_parity = 32 loses to it."""
    priced = costs(STUDY, 2.0)
    (best,) = cheapest(priced, STUDY, QualityGoal())
    assert best.goal == "parity by likelihood"
    assert (best.cost.cell.model.key, best.cost.cell.batch_size) == ("tiny-llama", 8)
    assert best.candidates == 2 + 2 * 2  # the baseline and K = 32, 64, at both batch sizes
    # Were the baseline a hundred times as slow, S_parity at the larger batch would be the way.
    slow = tuple(
        replace(r, samples=tuple(replace(s, latency_s=100 * s.latency_s) for s in r.samples))
        if r.cell.model.role == "baseline"
        else r
        for r in RUN.results
    )
    run_ = replace(RUN, results=slow)
    study = analyse(run_, draws=200)
    (best,) = cheapest(costs(study, 2.0), study, QualityGoal())
    assert (best.cost.cell.steps, best.cost.cell.batch_size) == (32, 8)


def test_the_cheapest_way_to_a_stated_value():
    priced = costs(STUDY, 2.0)
    (loose,) = cheapest(priced, STUDY, goal_of("likelihood=2.5", STUDY))
    assert loose.candidates == len(priced)
    assert loose.cost.per_million == min(c.per_million for c in priced)
    (strict,) = cheapest(priced, STUDY, goal_of("likelihood=0.9", STUDY))
    assert strict.cost.cell.steps in (32, 64)
    (none,) = cheapest(priced, STUDY, goal_of("likelihood=0.1", STUDY))
    assert none.cost is None
    # Of a share, more is better.
    (valid,) = cheapest(priced, STUDY, goal_of("oracle_validity=0.9", STUDY))
    assert 0 < valid.candidates < len(priced)


def test_without_quality_there_is_no_cheapest_way():
    bare = tiny_run(batches=(1,), blocks=(None,), steps=(4, 16), scored=False)
    study = analyse(bare, draws=20)
    assert cheapest(costs(study, 1.0), study, QualityGoal()) == ()


@pytest.mark.parametrize("text", ["likelyhood=1", "likelihood=cheap", "likelihood=", "likelihood=nan"])
def test_a_goal_that_is_none(text):
    with pytest.raises(BenchError):
        goal_of(text, STUDY)


@pytest.mark.parametrize("price", [-1.0, float("nan"), float("inf")])
def test_a_price_that_is_none(price):
    with pytest.raises(BenchError, match="must be a number of at least 0, not"):
        costs(STUDY, price)


def test_analyze_prints_what_the_h200_study_costs(capsys, tmp_path):
    from support.experiments import H200_RUN

    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "records.jsonl").write_text((H200_RUN / "records.jsonl").read_text())
    code, out, _ = run(capsys, "analyze", folder, "--price", 2.5)
    assert code == 0
    assert "Cost at 2.5 per GPU hour" in out
    assert "per M tokens" in out
    assert "no metric was scored for both models" in out
    assert (folder / "figures/breakeven_map.png").stat().st_size > 10_000
    fails(capsys, "analyze", folder, "--price", "-2", says="--price")
    fails(capsys, "analyze", folder, "--quality", "likelihood=1", says="--quality ... --price")
