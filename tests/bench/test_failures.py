"""What a run does about failures: it tries again, names the cause, and leaves what cannot be run."""

from __future__ import annotations

import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from dlmbench import prompts
from dlmbench.analysis.replication import estimate
from dlmbench.bench.forecast import Expectation
from dlmbench.bench.generate import cells_beyond_context
from dlmbench.bench.speed import RunState, SpeedPass
from dlmbench.bench.worker import Failed, Pool, Worker, failure
from dlmbench.errors import BenchError, InvalidLogitsError
from dlmbench.results import Store
from dlmbench.types import CellStatus, Experiment, Plan, PromptSettings, ProtocolSettings
from support.experiments import embedded_pair
from support.program import run
from support.synthetic_run import ENVIRONMENT, baseline_cell, sample, target_cell

CELLS = (baseline_cell(), target_cell(8), target_cell(16))


def test_cells_that_failed_are_tried_again_and_a_tried_one_is_not_called_skipped(tmp_path):
    with Store.open(tmp_path, ENVIRONMENT, "t", Plan(CELLS)) as store:
        for cell, status in zip(CELLS, ("ok", "error", "oom"), strict=True):
            store.append(CellStatus(cell.id, status, "why"))
        work = Expectation(lambda cell: 1.0, is_seconds=True)
        progress = SimpleNamespace(failed=lambda *_: None)
        experiment = Experiment("study", (), (), PromptSettings("tiny", 1), ProtocolSettings(), metrics=())
        speed = SpeedPass(Plan(CELLS), RunState(experiment, store, progress, work), None)
        assert speed.state.ended == {CELLS[0].id: "ok"}
        speed.skip({CELLS[2].id: "too large"})
        assert store.records.result(CELLS[2].id).status == "oom"
        speed.skip({CELLS[1].id: "too long"}, "invalid")
        assert store.records.result(CELLS[1].id).reason == "too long"
        assert speed.is_done


def test_a_model_killed_while_it_loads_is_a_failure_and_no_interruption():
    with Pool({"m"}, "cpu") as pool:
        worker = pool.worker("m")
        worker.start()
        worker._process.kill()
        pool.start({"m": CELLS[0]})
        (reply,) = worker.ask(None)
        assert isinstance(reply, Failed)
        assert "SIGKILL" in reply.reason


@pytest.mark.parametrize(
    ("expected_s", "longest_s", "silence_s"), [(1.0, None, 900), (100.0, None, 2000), (100.0, 300.0, 6000)]
)
def test_a_process_may_be_silent_for_many_generations_of_its_cell(tmp_path, expected_s, longest_s, silence_s):
    with Store.open(tmp_path, ENVIRONMENT, "t", Plan(CELLS)) as store:
        if longest_s:
            store.append(sample(CELLS[0], 0, 1.0))
            store.append(sample(CELLS[0], 1, longest_s))
        work = Expectation(lambda cell: expected_s, is_seconds=True)
        experiment = Experiment("study", (), (), PromptSettings("tiny", 1), ProtocolSettings(), metrics=())
        speed = SpeedPass(Plan(CELLS), RunState(experiment, store, SimpleNamespace(), work), None)
        assert speed._silence_s(CELLS[0]) == silence_s
        amounts = Expectation(lambda cell: 1e12, is_seconds=False)
        unknown = SpeedPass(Plan(CELLS), RunState(experiment, store, SimpleNamespace(), amounts), None)
        assert unknown._silence_s(CELLS[1]) == 3600


def test_a_process_that_never_ends_loading_is_ended(monkeypatch):
    monkeypatch.setattr("dlmbench.bench.worker.MOST_LOADING_S", 0.2)
    with Pool({"m"}, "cpu") as pool:
        (reply,) = pool.worker("m").ask(None)
        assert reply == Failed("error", "the model's process gave no answer for 0 s and was ended")
        monkeypatch.undo()
        assert list(pool.worker("m").ask(Nothing())) == []


class Nothing:
    """A request without replies."""

    def run(self, state):
        return iter(())


class Busy:
    """A request that is answered once and then computes on."""

    def run(self, state):
        import time

        yield "one"
        time.sleep(1000)


def busy_process(worker):
    assert next(worker.ask(Busy())) == "one"
    return worker._process


def test_an_error_ends_busy_processes_without_waiting_for_them():
    pool = Pool({"a", "b"}, "cpu")
    processes = [busy_process(pool.worker(key)) for key in "ab"]
    pool.__exit__(KeyError, KeyError(), None)
    assert [p.exitcode for p in processes] == [-signal.SIGKILL] * 2


def test_a_worker_may_be_killed_by_another_thread_while_it_starts(monkeypatch):
    worker, ended = Worker("cpu"), []

    class Starting:
        """A process without anything to kill before `start` returns, as those of multiprocessing."""

        def __init__(self, **_):
            self.is_started = False

        def start(self):
            worker.kill()
            self.is_started = True

        def kill(self):
            assert self.is_started
            ended.append(self)

    context = SimpleNamespace(Pipe=lambda: (None, SimpleNamespace(close=lambda: None)), Process=Starting)
    monkeypatch.setattr("multiprocessing.get_context", lambda method: context)
    worker.start()
    assert len(ended) == 1


def test_out_of_memory_on_the_cpu_is_out_of_memory():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60)
    assert failure(raised.value).status == "oom"
    assert failure(RuntimeError("shapes differ")).status == "error"
    assert failure(InvalidLogitsError("NaN")) == Failed("invalid", "NaN")


def test_trained_weights_are_not_run_beyond_their_context():
    cell = baseline_cell()
    known = {cell.model.key: SimpleNamespace(max_positions=100)}
    assert "128 tokens are more than the 100 positions" in cells_beyond_context([cell], known)[cell.id]
    assert not cells_beyond_context([replace(cell, model=replace(cell.model, weights="random"))], known)
    assert not cells_beyond_context([cell], {})


def test_the_plan_names_the_cells_that_are_longer_than_the_context(tmp_path, capsys):
    (tmp_path / "long.yaml").write_text(embedded_pair().replace("prompt_tokens: 24", "prompt_tokens: 500"))
    code, _, err = run(capsys, "plan", "-c", tmp_path / "long.yaml")
    assert code == 0
    assert "3 cells would not be measured" in err
    assert "516 tokens are more than the" in " ".join(err.split())


def test_recorded_prompts_are_found_again_or_refused(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("one\ntwo\n")
    last = PromptSettings("file", None, str(path), limit=1)
    every = prompts.identity(replace(last, limit=None))
    assert prompts.recorded_settings(last, every) == replace(last, limit=None)
    assert prompts.recorded_settings(replace(last, limit=None), prompts.identity(last)) == last
    path.write_text("three\nfour\n")
    with pytest.raises(BenchError, match="have changed"):
        prompts.recorded_settings(last, every)


def test_the_interval_of_a_ratio_of_noisy_times_is_positive():
    slow = estimate({1: [0.1, 3.0, 0.2, 5.0, 0.1, 4.0]}, None)
    fast = estimate({2: [0.1, 2.0, 0.1, 0.3, 2.5, 0.2]}, None)
    assert slow.over(fast).interval().low > 0
