"""The self-check as a whole, on machines of invented speed: no process is started and no time passes."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from dlmbench.bench import selfcheck
from dlmbench.bench.selfcheck import CheckClock, RepeatSlowed, run_selfcheck
from dlmbench.bench.worker import Failed, Placement, Repetition
from dlmbench.errors import BenchError
from dlmbench.measure.clock import Clock
from dlmbench.measure.nvml import GpuMeter
from dlmbench.measure.selfcheck import PLANTED
from dlmbench.types import BUSY, LAUNCH_BOUND, ClockBias, Generation
from support.synthetic_run import ENVIRONMENT, sample


class Machine:
    """Workers whose process medians vary by `sd`; `hears`: whether a planted slowdown shows."""

    def __init__(self, sd=0.0, hears=True, broken=(), process_s=1.0, slowed_s=0.0):
        self.sd, self.hears, self.broken = sd, hears, broken
        self.process_s, self.slowed_s = process_s, slowed_s
        self.rng, self.now_s, self.started = np.random.default_rng(1), 0.0, 0
        self.requests = []

    def worker(self, device, placement=None):
        machine, effects = self, {}

        def ask(request, silence_s):
            machine.requests.append(request)
            if isinstance(request, CheckClock):
                yield (ClockBias("sleep", 0.01, 1.0, 10),), 1e-7
                return
            if request.cell.engine in machine.broken:
                yield Failed("error", "no such kernel")
                return
            latency_s = 0.2 * math.exp(effects.setdefault(request.cell.id, machine.rng.normal(0, machine.sd)))
            if isinstance(request, RepeatSlowed):
                machine.now_s += machine.slowed_s
                for planted in (0.0, *PLANTED) * request.repetitions:
                    yield planted, latency_s * (1 + planted * machine.hears)
                return
            for i in range(request.visit.warmups + request.visit.repetitions):
                yield Repetition(sample(request.cell, i, latency_s), ())

        def start(first):
            machine.started += 1
            machine.now_s += machine.process_s

        return SimpleNamespace(ask=ask, start=start, wait=lambda: None, stop=lambda: None)


@pytest.fixture
def check(monkeypatch):
    def run(machine, budget_s=1e9, engines=("hf", "native"), placements=()):
        monkeypatch.setattr(selfcheck, "Worker", machine.worker)
        clock = SimpleNamespace(monotonic=lambda: machine.now_s, perf_counter=lambda: machine.now_s)
        monkeypatch.setattr(selfcheck, "time", clock)
        return run_selfcheck(ENVIRONMENT, "cpu", lambda *progress: None, engines, budget_s, placements)

    return run


def test_a_planted_slowdown_is_found_where_the_machine_is_steady(check):
    found = check(Machine(sd=0.001))
    assert {(f.engine, f.kind) for f in found.floors} == {
        (engine, kind) for engine in ("hf", "native") for kind in (LAUNCH_BOUND, BUSY)
    }
    for floor in found.floors:
        assert (floor.processes, floor.pairs, len(floor.medians_s)) == (6, 15, 6)
        assert 0 < floor.ratio < 0.02
        assert found.smallest_found(floor.engine, floor.kind) <= 0.02
    assert all(d.measured == pytest.approx(d.planted) for d in found.detected)
    assert found.environment_id == ENVIRONMENT.id


def test_nothing_is_found_in_noise_or_where_a_slowdown_does_not_show(check):
    for machine in (Machine(sd=0.3), Machine(sd=0.001, hears=False)):
        found = check(machine)
        assert [found.smallest_found(f.engine, f.kind) for f in found.floors] == [None] * 4


def test_processes_are_added_as_long_as_the_time_allows(check):
    machine = Machine(process_s=10.0)
    assert check(machine, budget_s=0).floors[0].processes == 3
    assert check(machine, budget_s=45).floors[0].processes == 4
    assert check(machine, budget_s=1000).floors[0].processes == 6


def test_without_time_for_slowdowns_processes_are_still_added(check):
    machine = Machine(process_s=10.0, slowed_s=15.0)
    # 10, 40 with slowdowns in two cells, 10; then another 40 would be too much, but three times 10 is not.
    assert check(machine, 95, engines=["hf"]).floors[0].processes == 6
    assert sum(isinstance(r, RepeatSlowed) for r in machine.requests) == 2


def test_every_second_process_is_also_slowed_after_its_plain_repetitions(check):
    machine = Machine()
    check(machine, engines=["hf"])
    kinds = [type(r).__name__ for r in machine.requests]
    assert (
        kinds
        == (["CheckClock"] + ["Repeat"] * 4 + ["Repeat", "Repeat", "RepeatSlowed"] * 2)
        + (["Repeat"] * 4 + ["Repeat", "Repeat", "RepeatSlowed"] * 2) * 2
    )
    (slowed, *_) = (r for r in machine.requests if isinstance(r, RepeatSlowed))
    assert slowed.plain_s == pytest.approx(0.2)


def test_an_engine_that_fails_is_named_and_the_others_are_measured(check):
    found = check(Machine(broken=["native"]))
    assert {f.engine for f in found.floors} == {"hf"}
    assert found.not_measured == ("native, launch-bound: no such kernel", "native, busy: no such kernel")
    with pytest.raises(BenchError, match="no such kernel"):
        check(Machine(broken=["hf", "native"]))
    with pytest.raises(BenchError, match="unknown engine"):
        check(Machine(), engines=["hff"])


def test_the_slowdown_is_planted_inside_the_timed_region(monkeypatch):
    """Through the real repetition: the share that is added is the share that is measured."""
    now = [0.0]

    class Simulated(Clock):
        def mark(self):
            return now[0]

        def wall(self):
            return now[0]

    def work(seconds):
        now[0] += seconds
        return seconds

    def generate(batch):
        work(0.2)
        return Generation(((1,),), 1, 1, 1)

    monkeypatch.setattr(selfcheck, "known_workloads", lambda device: {"spin": work})
    state = SimpleNamespace(
        device="cpu", clock=Simulated(), meter=GpuMeter(), generator=lambda cell: SimpleNamespace(generate=generate)
    )
    replies = list(RepeatSlowed(None, None, 0.2, 2).run(state))
    assert [planted for planted, _ in replies] == [0.0, *PLANTED] * 2
    assert [latency_s / 0.2 - 1 for _, latency_s in replies] == pytest.approx([0.0, *PLANTED] * 2)


def test_cells_are_8b_shapes_on_a_gpu_with_enough_memory():
    large = selfcheck.checked_cells(replace(ENVIRONMENT, memory_bytes=80 * 10**9), "cuda", ["hf"])
    small = selfcheck.checked_cells(replace(ENVIRONMENT, memory_bytes=8 * 10**9), "cuda", ["hf"])
    assert {c.cell.model.source for c in large} == {"8b"}
    assert {c.cell.model.source for c in small} == {"embedded:ar", "embedded:llada"}
    assert [(c.kind, c.cell.batch_size) for c in large] == [(LAUNCH_BOUND, 1), (BUSY, 8)]
    assert all(len(c.batch.prompts) == c.cell.batch_size for c in [*large, *small])


def slower(repetition):
    return replace(repetition, sample=replace(repetition.sample, latency_s=1.5 * repetition.sample.latency_s))


class Neighbours(Machine):
    """GPUs of one node. A generation takes half as long again while others compute; `lost` is the last one's engine."""

    def __init__(self, lost=None):
        super().__init__()
        self.lost, self.at_work, self.are_beside, self.changes = lost, 0, False, threading.Condition()

    def worker(self, device, placement=None):
        alone = super().worker(device)

        def ask(request, silence_s):
            with self.changes:
                self.at_work += 1
                self.are_beside |= self.at_work > 1
                self.changes.notify_all()
                is_beside = self.changes.wait_for(lambda: self.are_beside, timeout=0.5 if placement else 0)
            for reply in alone.ask(request, silence_s):
                if placement == PLACEMENTS[-1] and request.cell.engine == self.lost:
                    yield Failed("error", "the GPU has fallen off the bus")
                    break
                yield slower(reply) if is_beside and isinstance(reply, Repetition) else reply
            with self.changes:
                self.at_work -= 1
                self.are_beside &= self.at_work > 0

        return SimpleNamespace(**{**vars(alone), "ask": ask})


PLACEMENTS = [Placement(name="GPU 0"), Placement(name="GPU 1")]


def test_what_busy_neighbours_cost_is_the_time_beside_them_over_the_time_alone(check):
    found = check(Neighbours(), placements=PLACEMENTS)
    assert {(n.engine, n.kind, n.gpus) for n in found.neighbours} == {
        (engine, kind, 2) for engine in ("hf", "native") for kind in (LAUNCH_BOUND, BUSY)
    }
    assert [n.ratio for n in found.neighbours] == [pytest.approx(1.5)] * 4


def test_a_gpu_that_is_lost_costs_the_neighbours_of_its_cells_alone(check):
    found = check(Neighbours(lost="hf"), placements=PLACEMENTS)
    assert [n.engine for n in found.neighbours] == ["native", "native"]
    assert len(found.floors) == 4
    assert len(found.not_measured) == 2
    assert "beside 1 busy GPUs: the GPU has fallen off the bus" in found.not_measured[0]
