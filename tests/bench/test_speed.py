"""The order of a speed pass over fresh processes, whole and resumed, with workers that answer at once."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import pytest

from dlmbench.bench.forecast import Expectation
from dlmbench.bench.speed import RunState, SpeedPass, visiting_order
from dlmbench.bench.worker import ProfileCell, Repeat
from dlmbench.errors import StopRequestedError
from dlmbench.results import Store, read_run
from dlmbench.types import (
    Experiment,
    Plan,
    Prompt,
    PromptBatch,
    PromptSettings,
)
from support.fake_workers import CELLS, SETTINGS, FakePool, NoProgress
from support.synthetic_run import ENVIRONMENT


def measure(folder, settings=SETTINGS, together=True, at=None, processes=None):
    """The requests of a speed pass into `folder`, and its results; None if it was stopped."""
    pool = FakePool()
    with Store.open(folder, ENVIRONMENT, "study", Plan(CELLS)) as store:
        work = Expectation(lambda cell: 1.0, is_seconds=True)
        experiment = Experiment("study", (), (), PromptSettings("tiny", 1), settings, metrics=())
        speed = SpeedPass(Plan(CELLS), RunState(experiment, store, NoProgress(at), work), pool, processes or {})
        prompts = {(c.model.key, c.prompt_tokens, c.new_tokens): PromptBatch((Prompt(0, (1,)),), "h") for c in CELLS}
        try:
            speed.run(prompts, together=together)
        except StopRequestedError:
            return pool.log, None
        return pool.log, store.records.results()


def counts_of(result):
    return sorted(Counter(s.process_id for s in result.timed).values())


@pytest.mark.parametrize("together", [True, False])
def test_each_cell_is_measured_in_fresh_processes_one_after_the_other(tmp_path, together):
    log, results = measure(tmp_path, together=together)
    repeats = [(p, r) for p, r in log if isinstance(r, Repeat)]
    assert [counts_of(r) for r in results] == [[3, 3, 3]] * 4
    assert all(r.status == "ok" for r in results)
    # Which model each process belongs to, in the order of their first repetitions.
    order = [key for _, key in dict.fromkeys((p, r.cell.model.key) for p, r in repeats)]
    assert [set(order[i : i + 2]) for i in range(0, 6, 2)] == [{"tiny-llama", "tiny-llada"}] * 3
    assert len(order) == 6
    if not together:
        assert order == ["tiny-llama", "tiny-llada"] * 3
    for result in results:
        warm = {s.process_id for s in result.samples if s.is_warmup}
        assert warm == {s.process_id for s in result.timed}
        assert {w.process_id for w in result.energy} == warm
        assert len(result.energy) == 3
    (spent,) = read_run(tmp_path).device_time
    assert spent.timed_s == pytest.approx(4 * 9 * 0.1)
    assert spent.windows_s == pytest.approx(4 * 3 * 3.25)
    assert spent.warmup_s == pytest.approx(0.1 * sum(s.is_warmup for r in results for s in r.samples))
    # One inspection of a cell in all, not one in each process, in the process that has just measured it.
    inspected = {r.cell.id: p for p, r in log if isinstance(r, ProfileCell)}
    assert inspected == {r.cell.id: r.timed[-1].process_id for r in results}
    assert Counter(r.cell.id for _, r in log if isinstance(r, ProfileCell)) == {c.id: 1 for c in CELLS}


def test_all_cells_of_a_model_share_a_process_and_its_rounds(tmp_path):
    log, _ = measure(tmp_path, replace(SETTINGS, min_repeats=15, max_repeats=15))
    visits = Counter((p, r.round) for p, r in log if isinstance(r, Repeat))
    # Each of the six processes visits its two cells in both rounds.
    assert len(visits) == 6 * 2
    assert set(visits.values()) == {2}


@pytest.mark.parametrize("at", [1, 7, 16, 23, 40])
def test_a_stopped_run_is_completed_by_as_many_processes_as_are_missing(tmp_path, at):
    _, results = measure(tmp_path, at=at)
    assert results is None
    _, results = measure(tmp_path)
    for result in results:
        assert sum(n >= 3 for n in counts_of(result)) == 3
        assert sum(counts_of(result)) <= 9 + 2
    assert measure(tmp_path)[0] == []


def test_a_shard_measures_its_part_of_the_processes_and_inspects_where_process_0_runs(tmp_path):
    """Three processes of nine repetitions in all: two here and one elsewhere."""
    here = {CELLS[0].id: (0, 2), CELLS[1].id: (1,), CELLS[2].id: (1, 2), CELLS[3].id: (0,)}
    log, results = measure(tmp_path, processes=here)
    assert [counts_of(r) for r in results] == [[3] * len(here[r.cell.id]) for r in results]
    assert {r.cell.id for _, r in log if isinstance(r, ProfileCell)} == {CELLS[0].id, CELLS[3].id}
    assert all(r.status == "ok" for r in results)


def test_with_one_process_a_baseline_that_does_not_fit_beside_the_target_comes_back_at_the_end(tmp_path):
    log, _ = measure(tmp_path, replace(SETTINGS, processes=1), together=False)
    order = [key for _, key in dict.fromkeys((p, r.cell.model.key) for p, r in log)]
    assert order == ["tiny-llama", "tiny-llada", "tiny-llama"]


def test_cells_of_one_engine_are_visited_together():
    mixed = [replace(c, engine=e) for e in ("hf", "native") for c in CELLS]
    for seed in range(5):
        order = [c.engine for c in visiting_order(mixed, str(seed))]
        assert len(list(itertools.groupby(order))) == 2
