"""Workers that answer at once, for tests of what a speed pass asks of them and in which order."""

from __future__ import annotations

import itertools
from dataclasses import replace

from dlmbench.bench.worker import MeterEnergy, ProfileCell, Repeat, Repetition
from dlmbench.errors import StopRequestedError
from dlmbench.types import EnergyWindow, MemoryPass, ProtocolSettings, TracedPass
from support.synthetic_run import baseline_cell, sample, target_cell

CELLS = (baseline_cell(), baseline_cell(batch_size=2), target_cell(8), target_cell(16))
SETTINGS = ProtocolSettings(warmup=1, pilot=3, min_repeats=6, max_repeats=6, processes=3, rounds=2)


class FakeWorker:
    """A worker whose processes are numbered as they start; `log` gets (process id, request)."""

    numbers = itertools.count(1)

    def __init__(self, log: list) -> None:
        self.log, self.process_id, self.is_running = log, 0, False

    def start(self, first=None) -> None:
        if not self.is_running:
            self.process_id, self.is_running = next(self.numbers), True

    def stop(self) -> None:
        self.is_running = False

    def ask(self, request, silence_s=None):
        self.start()
        self.log.append((self.process_id, request))
        cell = request.cell
        if isinstance(request, ProfileCell):
            yield TracedPass(cell.id, self.process_id, None, None, None, None, None, None, None)
            yield MemoryPass(cell.id, self.process_id, "rss")
            return
        if isinstance(request, MeterEnergy):
            yield EnergyWindow(cell.id, self.process_id, 4, 3.25, 40.0, 32)
            return
        assert isinstance(request, Repeat)
        visit = request.visit
        for is_warmup, first, count in (
            (True, visit.first_warmup_index, visit.warmups),
            (False, visit.first_index, visit.repetitions),
        ):
            for index in range(first, first + count):
                made = sample(cell, index, 0.1, self.process_id, request.round)
                yield Repetition(replace(made, is_warmup=is_warmup), ())


class FakePool:
    def __init__(self) -> None:
        self.log: list = []
        self.workers = {cell.model.key: FakeWorker(self.log) for cell in CELLS}

    def start(self, first) -> None:
        for key in first:
            self.workers[key].start()

    def stop(self, keys=None) -> None:
        for key in self.workers if keys is None else keys:
            self.workers[key].stop()

    def worker(self, key):
        return self.workers[key]


class NoProgress:
    """Stops at the repetition `at`."""

    def __init__(self, at: int | None = None) -> None:
        self.left_until_stop = at

    def cell(self, *_) -> None:
        pass

    failed = left = cell

    def repetition(self, *_) -> None:
        if self.left_until_stop is not None:
            self.left_until_stop -= 1
            if self.left_until_stop == 0:
                raise StopRequestedError
