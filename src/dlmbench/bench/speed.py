"""The speed pass: every cell repeated as the protocol requires, in rounds, each model in its own worker process.

Every cell is measured in several fresh processes of its model: the first process of all models, then the second, and so
on. Within a process cells are visited in rounds, in shuffled order. Drift spreads over all of them in both ways. Where
all models fit in the device's memory their processes are alive together and alternate; otherwise they take turns. With
one process for each cell these turns are baseline, target and baseline again, and the two of the baseline check for
drift. What is left to do follows from the records alone, so a resumed run is the same code as a fresh one.

A run on several GPUs is one such pass for each of them, in a thread of its own (bench/gpus.py).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from dlmbench.bench.forecast import Expectation, Remaining, remaining
from dlmbench.bench.worker import (
    MOST_LOADING_S,
    MOST_SILENT_S,
    Failed,
    GenerateMissing,
    MeterEnergy,
    Pool,
    ProfileCell,
    Repeat,
    Repetition,
    Worker,
)
from dlmbench.measure.protocol import RepetitionPlan, plan_repetitions
from dlmbench.prompts import in_batches
from dlmbench.results import Store, read_generations
from dlmbench.results.records import Record
from dlmbench.types import (
    Cell,
    CellStatus,
    DeviceTime,
    EnergyWindow,
    Experiment,
    Plan,
    Progress,
    Prompt,
    PromptBatch,
    PromptSets,
    Sample,
    Status,
    StoredGeneration,
)

# A process hangs that says nothing for MOST_SILENT_S, and for this many times a generation of its cell.
MOST_SILENT = 20

# Batch size for prompts that no timed repetition has used. That the other rows of a batch do not change a row's text is
# only shown on the CPU in float32; on a GPU in bfloat16 the batch size changes texts.
MISSING_BATCH_SIZE = 16


def visiting_order(cells: Sequence[Cell], seed: str) -> list[Cell]:
    """Shuffled, but engine by engine and precision by precision: each change of these loads the model again."""
    shuffled = random.Random(seed).sample(cells, len(cells))
    settings = list(dict.fromkeys((c.engine, c.precision, c.attention) for c in shuffled))
    return sorted(shuffled, key=lambda c: settings.index((c.engine, c.precision, c.attention)))


class RunState:
    """What the passes of one run share: where they record, and how far they are. Thread-safe under `lock`.

    ended: the status of each finished cell. generated: the texts that exist. parts: of how many passes a cell still
    needs its part. active: how many passes are at work now. left: what each of them still takes. later_s: seconds of
    the passes after them.
    """

    def __init__(self, experiment: Experiment, store: Store, progress: Progress, expectation: Expectation) -> None:
        self.experiment, self.store, self.progress, self.expectation = experiment, store, progress, expectation
        self.lock = threading.RLock()
        self.prompts: PromptSets = {}
        # What failed, or was skipped because of a prediction, is tried again: the cause may be gone.
        self.ended: dict[str, Status] = {r.cell.id: r.status for r in store.records.results() if r.status == "ok"}
        self.generated = {(g.cell_id, g.prompt_index) for g in read_generations(store.folder)}
        self.parts: dict[str, int] = {}
        self.active = 1
        self.left: dict[str, Remaining] = {}
        self.later_s = 0.0
        self.is_stopped = False

    def record(self, record: Record) -> None:
        """Record one measurement; a sample gets the next free index of its cell.

        Raises:
            RunStoppedError: another pass has ended the run.
        """
        with self.lock:
            if self.is_stopped:
                raise RunStoppedError
            if isinstance(record, Sample):
                taken, index = self.store.records.samples[record.cell_id], record.index
                while (record.is_warmup, index) in taken:
                    index += 1
                record = replace(record, index=index)
            self.store.append(record)

    def end(self, cell: Cell, failure: Failed | None) -> None:
        """Record that a cell has ended."""
        status = CellStatus(cell.id, failure.status, failure.reason) if failure else CellStatus(cell.id, "ok")
        with self.lock:
            self.record(status)
            self.ended[cell.id] = status.status
            if failure:
                self.progress.failed(cell, failure.reason)


class RunStoppedError(Exception):
    """Another pass has ended the run: what this one's workers answer from now on is no result."""


@dataclass
class SpeedPass:
    """The speed pass of one plan on one device.

    processes: by cell id, which of a cell's processes run here; all of those that it lacks. device_name: where the run
    has several devices; this pass then counts its own processes alone.
    """

    plan: Plan
    state: RunState
    pool: Pool
    processes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    device_name: str = ""

    def __post_init__(self) -> None:
        self.settings = self.state.experiment.protocol
        self.spent = dict.fromkeys(("loading_s", "warmup_s", "timed_s", "windows_s", "inspection_s"), 0.0)
        # Texts are kept even for metrics that need none: others may be added when the models are gone.
        real = [c for c in self.plan.scored_cells if self.state.experiment.metrics and c.model.weights != "random"]
        self.scored = {cell.id for cell in real if self.is_inspected(cell)}
        self.own_processes: set[int] = set()
        self.closed: set[str] = set()  # cells whose part here is done

    def process_count(self, cell: Cell) -> int:
        """In how many processes a cell is measured here."""
        return len(self.processes.get(cell.id, range(self.settings.processes)))

    def is_inspected(self, cell: Cell) -> bool:
        """Whether memory, step times and texts of a cell are taken here: in one place, wherever its processes run."""
        return 0 in self.processes.get(cell.id, (0,))

    @property
    def is_done(self) -> bool:
        """Whether every cell has ended."""
        return all(self._is_closed(cell) for cell in self.plan.cells)

    def _is_closed(self, cell: Cell) -> bool:
        return cell.id in self.closed or cell.id in self.state.ended

    def skip(self, reasons: Mapping[str, str], status: Status = "skipped") -> None:
        """Record that these cells (reasons by id) are not tried; a cell that has samples already is resumed instead."""
        is_new, store, ended = False, self.state.store, self.state.ended
        for cell in self.plan.cells:
            if cell.id not in reasons or cell.id in ended or store.samples(cell.id):
                continue
            result = store.records.result(cell.id)
            if result.status == "oom" or (result.status, result.reason) == (status, reasons[cell.id]):
                ended[cell.id] = result.status or status  # what was tried says more than a prediction
            else:
                self.state.end(cell, Failed(status, reasons[cell.id]))
                is_new = True
        if is_new:
            store.write_views()

    def run(self, prompts: PromptSets, *, together: bool) -> None:
        """Run everything that is left. `together`: all models fit in memory at once."""
        self.state.prompts = prompts
        began = time.perf_counter()
        try:
            self._run_processes(together)
        finally:
            with self.state.lock:
                self.state.left.pop(self.device_name, None)
            if not self.state.is_stopped:
                self.state.record(DeviceTime(time.perf_counter() - began, **self.spent))

    def _run_processes(self, together: bool) -> None:
        baseline = [c for c in self.plan.cells if c.model.role == "baseline"]
        target = [c for c in self.plan.cells if c.model.role != "baseline"]
        rounds = range(self.settings.rounds)
        turns = [(self.plan.cells, rounds)] if together else [(baseline, rounds), (target, rounds)]
        if not together and self.settings.processes == 1:
            turns = [(baseline, rounds[:-1]), (target, rounds), (baseline, rounds[-1:])]
        # Every process completes its part of each cell, so a resumed run needs no more processes than a fresh one.
        for process in range(max(map(self.process_count, self.plan.cells), default=0)):
            for cells, numbers in turns:
                self._run_process([c for c in cells if self._is_left(c)], process, numbers)
                if not together:
                    self._finish_complete(cells)
                    self._stop(cells)
        self._finish_complete(self.plan.cells)
        assert self.is_done

    def _is_left(self, cell: Cell) -> bool:
        """Whether a cell lacks repetitions of this pass."""
        if self._is_closed(cell) or not self.process_count(cell):
            return False
        return not self._visit_plan(cell, self.settings.rounds - 1, None).is_empty

    def _run_process(self, cells: Sequence[Cell], process: int, rounds: Sequence[int]) -> None:
        """A fresh process of each model, for its part of these cells."""
        if not rounds:
            return
        self._stop(cells)
        began = time.perf_counter()
        self.pool.start({c.model.key: c for c in cells})
        self.spent["loading_s"] += time.perf_counter() - began
        for number in rounds:
            for cell in visiting_order(cells, f"{self.state.experiment.seed}:{process}:{number}"):
                if not self._is_closed(cell):
                    self._visit(cell, process, number)

    def _stop(self, cells: Sequence[Cell]) -> None:
        self.pool.stop({c.model.key for c in cells})

    def _visit(self, cell: Cell, process: int, number: int) -> None:
        """One cell in one round: the number of repetitions is computed again once the pilot is recorded."""
        worker = self.pool.worker(cell.model.key)
        while not self._is_closed(cell):
            worker.start(cell)
            self.own_processes.add(worker.process_id)
            visit = self._visit_plan(cell, number, worker.process_id)
            if visit.is_empty or self._too_large(cell):
                return
            of = f"process {process + 1} of {self.process_count(cell)}, round {number + 1} of {self.settings.rounds}"
            self._show(cell, of)
            batches = in_batches(self._prompts(cell), cell.batch_size)
            self._record(worker, Repeat(cell, visit, number, batches))
            last = self._visit_plan(cell, self.settings.rounds - 1, worker.process_id)
            if self._is_closed(cell) or not last.is_empty:
                continue
            # The process is done with the cell: what it has captured and compiled still serves.
            self._record(worker, MeterEnergy(cell, batches[0]))
            if not self._is_closed(cell) and not self._is_left(cell):
                self._finish(cell)

    def _visit_plan(self, cell: Cell, number: int, process_id: int | None) -> RepetitionPlan:
        samples = self._samples(cell)
        return plan_repetitions(samples, self.settings, number, process_id, self.process_count(cell))

    def _samples(self, cell: Cell) -> tuple[Sample, ...]:
        """The repetitions that count here: where other devices run processes of the same cell, not theirs."""
        with self.state.lock:
            samples = self.state.store.samples(cell.id)
        if self.device_name and self.settings.processes > 1:
            return tuple(s for s in samples if s.process_id in self.own_processes)
        return samples

    def _too_large(self, cell: Cell) -> bool:
        """Whether a smaller batch of the same shape ran out of memory; if so, this cell is recorded as oom, untried."""
        for other in self.plan.cells:
            smaller = other.shape_key == cell.shape_key and other.batch_size < cell.batch_size
            if smaller and self.state.ended.get(other.id) == "oom":
                self._end(cell, Failed("oom", f"not tried: batch {other.batch_size} of this shape ran out of memory"))
                return True
        return False

    def _finish_complete(self, cells: Sequence[Cell]) -> None:
        """Finish the cells that have all their repetitions, model by model."""
        for cell in sorted(cells, key=lambda c: c.model.key):
            if not self._is_closed(cell) and not self._is_left(cell):
                self._finish(cell)

    def _finish(self, cell: Cell) -> None:
        """Profile a cell, generate its missing texts, and record its end once no other pass has a part of it left."""
        worker = self.pool.worker(cell.model.key)
        with self.state.lock:
            result = self.state.store.records.result(cell.id)
        prompts = self._prompts(cell)
        if self.is_inspected(cell) and (result.traced is None or result.memory is None):
            self._show(cell, "step times and memory")
            latency_s = median(s.latency_s for s in result.timed) if result.timed else None
            self._record(worker, ProfileCell(cell, in_batches(prompts, cell.batch_size)[0], latency_s))
        missing = self._missing(cell)
        if missing and not self._is_closed(cell):
            self._show(cell, "texts for scoring")
            size = max(MISSING_BATCH_SIZE, cell.batch_size)
            parts = [missing[i : i + size] for i in range(0, len(missing), size)]
            batches = tuple(PromptBatch(part, prompts.prompt_hash) for part in parts)
            self._record(worker, GenerateMissing(cell, batches))
        with self.state.lock:
            if not self._is_closed(cell):
                self.closed.add(cell.id)
                self.state.parts[cell.id] = self.state.parts.get(cell.id, 1) - 1
                if not self.state.parts[cell.id]:
                    self._end(cell, None)

    def _record(self, worker: Worker, request: Repeat | MeterEnergy | ProfileCell | GenerateMissing) -> None:
        """Send a request and record each reply as it comes."""
        cell, began = request.cell, time.perf_counter()
        neighbours = self.state.active - 1  # when a repetition begins; they can only become fewer until it ends
        for reply in worker.ask(request, self._silence_s(cell)):
            if isinstance(reply, Failed):
                self._end(cell, reply)
            elif isinstance(reply, Repetition):
                self.state.record(replace(reply.sample, neighbours=neighbours))
                self._keep(cell, reply.generations)
                self.spent["warmup_s" if reply.sample.is_warmup else "timed_s"] += reply.sample.wall_s
                with self.state.lock:
                    self.state.progress.repetition(cell, reply.sample.latency_s)
            elif isinstance(reply, StoredGeneration):
                self._keep(cell, (reply,))
            else:
                self.state.record(reply)
                self.spent["windows_s"] += reply.region_s if isinstance(reply, EnergyWindow) else 0.0
            neighbours = self.state.active - 1
        if isinstance(request, ProfileCell | GenerateMissing):
            self.spent["inspection_s"] += time.perf_counter() - began

    def _silence_s(self, cell: Cell) -> float:
        """After how long without an answer a process hangs: a reply takes one or a few generations, or compiling.

        As long as for loading where nobody knows yet how long a generation takes.
        """
        with self.state.lock:
            samples = self.state.store.samples(cell.id)
        expected = self.state.expectation.weight(cell) if self.state.expectation.is_seconds else None
        longest = max((s.latency_s for s in samples), default=expected)
        return MOST_LOADING_S if longest is None else max(MOST_SILENT_S, MOST_SILENT * longest)

    def _keep(self, cell: Cell, generations: Sequence[StoredGeneration]) -> None:
        with self.state.lock:
            done = self.state.generated
            new = [g for g in generations if cell.id in self.scored and (cell.id, g.prompt_index) not in done]
            self.state.store.add_generations(new)
            done |= {(g.cell_id, g.prompt_index) for g in new}

    def _end(self, cell: Cell, failure: Failed | None) -> None:
        """Record that a cell has ended; what another device found wrong with it first stands."""
        with self.state.lock:
            if cell.id not in self.state.ended:
                self.state.end(cell, failure)
                self.state.store.write_views()

    def remaining(self) -> Remaining:
        """The estimated time that this pass still takes."""
        with self.state.lock:
            records = self.state.store.records
            results = [replace(records.result(c.id), samples=self._samples(c)) for c in self.plan.cells]
        ended = {*self.state.ended, *self.closed}
        texts = {c.id: len(self._missing(c)) for c in self.plan.cells if c.id not in ended}
        processes = {c.id: self.process_count(c) for c in self.plan.cells}
        return remaining(results, ended, self.settings, self.state.expectation, texts, MISSING_BATCH_SIZE, processes)

    def _show(self, cell: Cell, doing: str) -> None:
        """Report the current activity, and the estimated remaining time: that of the device with most of it."""
        left = self.remaining()
        with self.state.lock:
            self.state.left[self.device_name] = left
            longest_s = max(r.seconds for r in self.state.left.values())
            unknown = sum(r.unknown for r in self.state.left.values())
            self.state.progress.left(longest_s + self.state.later_s, unknown)
            self.state.progress.cell(cell, f"{self.device_name}: {doing}" if self.device_name else doing)

    def _missing(self, cell: Cell) -> tuple[Prompt, ...]:
        """The prompts whose generated texts scoring still needs."""
        if cell.id not in self.scored:
            return ()
        return tuple(p for p in self._prompts(cell).prompts if (cell.id, p.index) not in self.state.generated)

    def _prompts(self, cell: Cell) -> PromptBatch:
        return self.state.prompts[cell.model.key, cell.prompt_tokens, cell.new_tokens]
