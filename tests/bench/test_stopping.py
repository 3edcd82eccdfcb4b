"""A run that a signal stops: its exit code, and what counts as progress of a job that queues itself again."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest

from dlmbench.bench.stopping import stoppable
from dlmbench.errors import BenchError, StopRequestedError
from dlmbench.results import Store
from dlmbench.types import CellStatus, EnergyWindow, MemoryPass, Plan, StoredGeneration, TextScore, Unscored
from support.fake_workers import NoProgress
from support.synthetic_run import ENVIRONMENT, sample, target_cell

CELL = target_cell(4)
TEXT = StoredGeneration(CELL.id, 0, "h", (5,), "a", 4, None, 1)
MEMORY = MemoryPass(CELL.id, 7, "rss")
FAILED = CellStatus(CELL.id, "error", "died")
SCORE, REFUSAL = TextScore(CELL.id, "likelihood", 0, -1.0, 4.0), Unscored(CELL.id, "likelihood", None, "no judge")


def stopped_by(folder, *signals, records=(), processes=1):
    """The exit code of a run that records `records` and is then stopped by `signals`."""
    with pytest.raises(StopRequestedError) as stopped:
        run_until(folder, signals, records, processes)
    return stopped.value.code


def run_until(folder, signals, records, processes):
    with (
        stoppable(NoProgress(), folder, processes) as stopping,
        Store.open(folder, ENVIRONMENT, "s", Plan((CELL,))) as store,
    ):
        for record in records:
            if isinstance(record, StoredGeneration):
                store.add_generations([record])
            elif isinstance(record, TextScore | Unscored):
                store.add_text_scores([record])
            else:
                store.append(record)
        for number in signals:
            os.kill(os.getpid(), number)
        stopping.repetition(CELL, 0.1)


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ([signal.SIGUSR1], 75),
        ([signal.SIGTERM], 143),
        ([signal.SIGINT], 130),
        ([signal.SIGUSR1, signal.SIGTERM], 75),
        ([signal.SIGTERM, signal.SIGUSR1], 143),
        ([signal.SIGTERM, signal.SIGTERM], 143),
    ],
    ids=str,
)
def test_the_first_signal_decides_the_exit_code(tmp_path, signals, code):
    """A job near its time limit gets USR1 and then TERM, and is queued again; a cancelled one is not."""
    assert stopped_by(tmp_path, *signals, records=[sample(CELL, 0, 0.1)]) == code


def test_a_time_limit_without_progress_is_an_error_also_where_term_follows(tmp_path):
    with pytest.raises(BenchError, match="stopped before one repetition"):
        stopped_by(tmp_path, signal.SIGUSR1, signal.SIGTERM)


def test_ctrl_c_after_another_signal_ends_the_run_at_once(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        stopped_by(tmp_path, signal.SIGTERM, signal.SIGINT)


REPETITIONS = [sample(CELL, i, 0.1) for i in range(3)]


@pytest.mark.parametrize(
    ("records", "processes", "is_progress"),
    [
        (REPETITIONS[:1], 1, True),
        ([replace(REPETITIONS[0], is_warmup=True)], 1, False),
        (REPETITIONS[:2], 2, False),
        (REPETITIONS, 2, True),
        ([*REPETITIONS[:2], TEXT], 2, False),
        ([*REPETITIONS[:2], replace(TEXT, prompt_index=1)], 2, False),
        ([MEMORY], 2, True),
        ([EnergyWindow(CELL.id, 7, 4, 3.0, 40.0, 32)], 2, True),
        ([CellStatus(CELL.id, "ok")], 2, True),
        ([FAILED], 1, False),
        ([SCORE], 2, True),
        ([replace(REFUSAL, prompt_index=0)], 2, True),
        ([REFUSAL], 2, False),
    ],
)
def test_progress_is_what_the_next_start_does_not_do_again(tmp_path, records, processes, is_progress):
    if is_progress:
        assert stopped_by(tmp_path, signal.SIGUSR1, records=records, processes=processes) == 75
    else:
        with pytest.raises(BenchError, match="stopped before one"):
            stopped_by(tmp_path, signal.SIGUSR1, records=records, processes=processes)


def test_texts_of_a_cell_that_has_all_its_repetitions_are_progress(tmp_path):
    assert stopped_by(tmp_path, signal.SIGUSR1, records=[MEMORY]) == 75
    assert stopped_by(tmp_path, signal.SIGUSR1, records=[TEXT]) == 75
