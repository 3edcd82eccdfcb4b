"""Several devices of one node: what is dealt out, and that one folder gets every process of every cell once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import replace

import pytest

from dlmbench.bench import gpus
from dlmbench.bench.forecast import Expectation
from dlmbench.bench.gpus import Dealing, find_gpus, run_on
from dlmbench.bench.speed import RunState, SpeedPass
from dlmbench.bench.worker import ANYWHERE, Failed, Placement, ProfileCell, Repeat
from dlmbench.errors import BenchError, StopRequestedError
from dlmbench.results import Store, read_run
from dlmbench.types import Experiment, Plan, Prompt, PromptBatch, PromptSettings
from support.fake_workers import CELLS, SETTINGS, FakePool, NoProgress
from support.synthetic_run import ENVIRONMENT

EVENLY = Dealing({c.id: 1.0 for c in CELLS}, {}, frozenset())


class NamedPool(FakePool):
    """A pool on one of several devices; `refuses` is asked before each request."""

    def __init__(self, name, refuses=lambda request: None) -> None:
        super().__init__()
        self.placement, self.killed = Placement(name=name), 0
        for worker in self.workers.values():
            worker.ask = self._asked(worker.ask, refuses)

    @staticmethod
    def _asked(ask, refuses):
        def asked(request, silence_s):
            refusal = refuses(request)
            yield from ask(request, silence_s) if refusal is None else [refusal]

        return asked

    def kill(self):
        self.killed += 1


def measure(folder, pools, settings=SETTINGS, dealing=EVENLY, at=None):
    """A speed pass over `pools` into `folder`; returns the results."""
    with Store.open(folder, ENVIRONMENT, "study", Plan(CELLS)) as store:
        work = Expectation(lambda cell: 1.0, is_seconds=True)
        experiment = Experiment("study", (), (), PromptSettings("tiny", 1), settings, metrics=())
        whole = SpeedPass(Plan(CELLS), RunState(experiment, store, NoProgress(at), work), pools[0])
        prompts = {(c.model.key, c.prompt_tokens, c.new_tokens): PromptBatch((Prompt(0, (1,)),), "h") for c in CELLS}
        run_on(whole, pools, dealing, prompts, together=True)
        return store.records.results()


def complete_processes(result):
    return sum(n >= 3 for n in Counter(s.process_id for s in result.timed).values())


def requests(pool, kind):
    return [r for _, r in pool.log if isinstance(r, kind)]


def test_the_processes_of_each_cell_are_measured_on_several_devices_and_recorded_once(tmp_path):
    pools = [NamedPool("GPU 0"), NamedPool("GPU 1")]
    results = measure(tmp_path, pools)
    assert [complete_processes(r) for r in results] == [3] * len(CELLS)
    assert all(r.status == "ok" for r in results)
    for result in results:
        there = [{p for p, r in pool.log if isinstance(r, Repeat) and r.cell == result.cell} for pool in pools]
        assert sorted(map(len, there)) == [1, 2], "the processes of a cell go to different devices"
        indices = [(s.is_warmup, s.index) for s in result.samples]
        assert len(set(indices)) == len(indices)
    # The device that ends first had a busy neighbour all the time.
    samples = [s for result in results for s in result.samples]
    beside = [{s.neighbours for s in samples if s.process_id in {p for p, _ in pool.log}} for pool in pools]
    assert {1} in beside
    inspected = Counter(r.cell.id for pool in pools for r in requests(pool, ProfileCell))
    assert inspected == {c.id: 1 for c in CELLS}
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    assert sum('"kind": "status"' in line for line in lines) == len(CELLS)
    assert len(read_run(tmp_path).device_time) == 2


@pytest.mark.parametrize("at", [1, 9, 20, 33])
def test_a_stopped_run_is_completed_by_the_missing_processes_on_any_number_of_devices(tmp_path, at):
    with pytest.raises(StopRequestedError):
        measure(tmp_path, [NamedPool("GPU 0"), NamedPool("GPU 1")], at=at)
    kept = [complete_processes(r) for r in read_run(tmp_path).results]
    pools = [NamedPool(f"GPU {i}") for i in range(3)]
    results = measure(tmp_path, pools)
    assert [complete_processes(r) for r in results] == [3] * len(CELLS)
    for before, result in zip(kept, results, strict=True):
        started = {p for pool in pools for p, r in pool.log if isinstance(r, Repeat) and r.cell == result.cell}
        assert len(started) == 3 - before
    again = [NamedPool("GPU 0"), NamedPool("GPU 1")]
    measure(tmp_path, again)
    assert not any(pool.log for pool in again)


def test_a_cell_that_fails_on_one_device_has_failed_and_the_others_go_on(tmp_path):
    def refuses(request):
        return Failed("oom", "out of memory") if isinstance(request, Repeat) and request.cell == CELLS[3] else None

    results = measure(tmp_path, [NamedPool("GPU 0"), NamedPool("GPU 1", refuses)])
    assert [r.status for r in results] == ["ok", "ok", "ok", "oom"]
    results = measure(tmp_path, [NamedPool("GPU 0"), NamedPool("GPU 1")])
    assert [(r.status, complete_processes(r)) for r in results] == [("ok", 3)] * 4


def test_what_the_first_device_found_wrong_with_a_cell_stands(tmp_path):
    def refuses(reason, after_s):
        def refused(request):
            if isinstance(request, Repeat) and request.cell == CELLS[3]:
                time.sleep(after_s)
                return Failed("oom", reason)
            return None

        return refused

    pools = [NamedPool("GPU 0", refuses("second", 0.5)), NamedPool("GPU 1", refuses("first", 0.1))]
    protocol = replace(SETTINGS, processes=2)
    dealing = replace(EVENLY, seconds={c.id: 100.0 if c == CELLS[3] else 1.0 for c in CELLS})
    results = measure(tmp_path, pools, protocol, dealing)
    assert (results[3].status, results[3].reason) == ("oom", "first")
    assert sum(isinstance(r, Repeat) and r.cell == CELLS[3] for pool in pools for _, r in pool.log) == 0


def test_an_error_of_one_device_ends_the_run_and_keeps_what_was_measured(tmp_path):
    failed_at = []

    def refuses(request):
        if isinstance(request, Repeat) and len(requests(pools[1], Repeat)) == 3:
            failed_at.append(request.cell.id)
            raise BenchError("the disk is full", "")

    pools = [NamedPool("GPU 0"), NamedPool("GPU 1", refuses)]
    with pytest.raises(BenchError, match="disk is full"):
        measure(tmp_path, pools)
    assert all(pool.killed for pool in pools)
    kept = read_run(tmp_path).results
    status = {r.cell.id: r.status for r in kept}
    assert [status[i] for i in failed_at] == [None], "no failure of the cell, and a part of it is missing"
    of_device = [s for r in kept for s in r.samples if s.process_id in {p for p, _ in pools[1].log}]
    asked = [r.visit for r in requests(pools[1], Repeat)]
    assert len(of_device) == sum(v.warmups + v.repetitions for v in asked) > 0
    results = measure(tmp_path, [NamedPool("GPU 0"), NamedPool("GPU 1")])
    assert [(r.status, complete_processes(r)) for r in results] == [("ok", 3)] * 4
    for before, after in zip(kept, results, strict=True):
        assert set(before.samples) <= set(after.samples)


def test_cells_that_neighbours_would_slow_run_alone_and_last(tmp_path):
    alone = replace(EVENLY, alone=frozenset({CELLS[0].id}))
    results = measure(tmp_path, [NamedPool("GPU 0"), NamedPool("GPU 1")], dealing=alone)
    assert {s.neighbours for s in results[0].samples} == {0}
    assert complete_processes(results[0]) == 3
    last_of_others = max(s.started_at for r in results[1:] for s in r.samples)
    assert all(s.started_at >= last_of_others for s in results[0].samples)


def test_the_processes_of_a_device_end_with_its_part(tmp_path):
    pools = [NamedPool("GPU 0"), NamedPool("GPU 1")]
    measure(tmp_path, pools)
    assert any(worker.is_running for worker in pools[0].workers.values()), "scoring goes on with these"
    assert not any(worker.is_running for worker in pools[1].workers.values())


def test_the_time_left_counts_the_cells_that_come_later(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(NoProgress, "left", lambda self, seconds, unknown: shown.append(seconds))
    alone = replace(EVENLY, alone=frozenset(c.id for c in CELLS[:2]))
    measure(tmp_path, [NamedPool("GPU 0"), NamedPool("GPU 1")], replace(SETTINGS, processes=1), dealing=alone)
    assert len(shown) > 10
    assert shown[0] > 2 * shown[-1]
    generations = SETTINGS.warmup + SETTINGS.min_repeats
    assert shown[0] >= 3 * generations, "one of the two that run together, then two alone"
    assert 0 <= shown[-1] < generations


def test_one_process_of_each_cell_is_resumed_where_it_was(tmp_path):
    single = replace(SETTINGS, processes=1)
    with pytest.raises(StopRequestedError):
        measure(tmp_path, [NamedPool("GPU 0"), NamedPool("GPU 1")], single, at=4)
    results = measure(tmp_path, [NamedPool("GPU 0"), NamedPool("GPU 1")], single)
    assert [len(r.timed) for r in results] == [9] * 4


def wait_until(is_true):
    deadline = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_device_that_has_ended_is_no_busy_neighbour(tmp_path):
    records, is_halfway = tmp_path / "records.jsonl", threading.Event()

    def waits(request):
        if isinstance(request, Repeat) and request.round == 1:
            is_halfway.set()
            wait_until(lambda: '"device_time"' in records.read_text())
            time.sleep(0.1)  # the other thread ends right after that record

    def fails(request):
        assert is_halfway.wait(20)
        return Failed("error", "broken")

    results = measure(tmp_path, [NamedPool("GPU 0", waits), NamedPool("GPU 1", fails)], replace(SETTINGS, processes=1))
    beside = [Counter(s.neighbours for r in results for s in r.samples if s.round == number) for number in (0, 1)]
    assert set(beside[0]) == {1}
    # The first repetition of the second round was asked for while the other device was at work.
    assert (beside[1][1], set(beside[1])) == (1, {0, 1})


def test_an_error_during_a_requested_stop_ends_the_run_and_is_the_one_reported(tmp_path):
    has_stopped = threading.Event()

    def stops(request):
        has_stopped.set()
        raise StopRequestedError

    def fails(request):
        assert has_stopped.wait(20)
        time.sleep(0.2)
        raise BenchError("the disk is full", "")

    pools = [NamedPool("GPU 0", stops), NamedPool("GPU 1", fails)]
    with pytest.raises(BenchError, match="disk is full"):
        measure(tmp_path, pools)
    assert all(pool.killed for pool in pools)


def test_a_second_ctrl_c_ends_the_devices_that_are_still_at_work(tmp_path, monkeypatch):
    """The first one stopped a device already; the other is in the middle of a long repetition until it is killed."""
    is_killed = threading.Event()

    def stops(request):
        raise StopRequestedError

    def works(request):
        assert is_killed.wait(20), "never killed"
        return Failed("error", "the model's process died")

    pools = [NamedPool("GPU 0", stops), NamedPool("GPU 1", works)]
    pools[1].kill = is_killed.set
    waits, wait = [], gpus.wait

    def interrupted(futures, return_when):
        waits.append(futures)
        if len(waits) == 2:
            raise KeyboardInterrupt
        return wait(futures, return_when=return_when)

    monkeypatch.setattr(gpus, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path, pools)
    assert not any(r.status for r in read_run(tmp_path).results), "a worker that we end is no failure of its cell"


def test_what_the_passes_share_changes_under_its_lock(tmp_path, monkeypatch):
    class Guarded(dict):
        def __init__(self, lock):
            super().__init__()
            self.lock = lock

        def __setitem__(self, key, value):
            assert self.lock._is_owned()
            super().__setitem__(key, value)

        def pop(self, *arguments):
            assert self.lock._is_owned()
            return super().pop(*arguments)

    class GuardedState(RunState):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.left = Guarded(self.lock)

    monkeypatch.setitem(globals(), "RunState", GuardedState)
    assert all(r.status == "ok" for r in measure(tmp_path, [NamedPool("GPU 0"), NamedPool("GPU 1")]))


@pytest.mark.parametrize("wanted", ["0", "3", "-1", "many", "1.5"])
def test_a_number_of_gpus_that_is_not_there_says_how_many_are(monkeypatch, wanted):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(BenchError) as refused:
        find_gpus(wanted)
    assert "2" in refused.value.hint


def test_without_a_gpu_there_is_no_number_of_them(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for wanted in ("all", "1"):
        with pytest.raises(BenchError, match="gpus"):
            find_gpus(wanted)


@pytest.mark.parametrize(
    ("listed", "names"), [(None, ["0", "1"]), ("3,1", ["3", "1"]), ("GPU-aa, GPU-bb,GPU-cc", ["GPU-aa", "GPU-bb"])]
)
def test_each_worker_sees_its_own_entry_of_cuda_visible_devices(monkeypatch, listed, names):
    torch = pytest.importorskip("torch")
    equal = type("Properties", (), {"name": "H100", "total_memory": 80})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: equal)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if listed:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert [p.visible for p in find_gpus("all")] == names
    assert ANYWHERE.visible is None
    unlike = iter([equal, type("Properties", (), {"name": "A100", "total_memory": 80})])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: next(unlike))
    with pytest.raises(BenchError, match="several kinds"):
        find_gpus("2")
