"""The speed pass: every cell repeated as the protocol requires, in rounds, each model in its own worker process.

Every cell is measured in several fresh processes of its model: the first process of all models, then the second, and so
on. Within a process cells are visited in rounds, in shuffled order. Drift spreads over all of them in both ways. Where
all models fit in the device's memory their processes are alive together and alternate; otherwise they take turns. With
one process for each cell these turns are baseline, target and baseline again, and the two of the baseline check for
drift. What is left to do follows from the records alone, so a resumed run is the same code as a fresh one.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from dlmbench.bench.forecast import Expectation, remaining
from dlmbench.bench.worker import Failed, GenerateMissing, MeterEnergy, Pool, ProfileCell, Repeat, Repetition, Worker
from dlmbench.measure.protocol import RepetitionPlan, plan_repetitions
from dlmbench.prompts import in_batches
from dlmbench.results import Store, read_generations
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
    Status,
    StoredGeneration,
)

# Batch size for prompts that no timed repetition has used. That the other rows of a batch do not change a row's text is
# only shown on the CPU in float32; on a GPU in bfloat16 the batch size changes texts.
MISSING_BATCH_SIZE = 16


def visiting_order(cells: Sequence[Cell], seed: str) -> list[Cell]:
    """Shuffled, but engine by engine and precision by precision: each change of these loads the model again."""
    shuffled = random.Random(seed).sample(cells, len(cells))
    settings = list(dict.fromkeys((c.engine, c.precision, c.attention) for c in shuffled))
    return sorted(shuffled, key=lambda c: settings.index((c.engine, c.precision, c.attention)))


@dataclass
class SpeedPass:
    """The speed pass of one plan, recorded in a store.

    processes: by cell id, which of a cell's processes run here; all of those that it lacks.
    """

    plan: Plan
    experiment: Experiment
    store: Store
    pool: Pool
    progress: Progress
    expectation: Expectation
    processes: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.settings = self.experiment.protocol
        self.prompts: PromptSets = {}
        self.spent = dict.fromkeys(("loading_s", "warmup_s", "timed_s", "windows_s", "inspection_s"), 0.0)
        # Texts are kept even for metrics that need none: others may be added when the models are gone.
        real = [c for c in self.plan.scored_cells if self.experiment.metrics and c.model.weights != "random"]
        self.scored = {cell.id for cell in real if self.is_inspected(cell)}
        # What failed, or was skipped because of a prediction, is tried again: the cause may be gone.
        self.ended: dict[str, Status] = {r.cell.id: r.status for r in self.store.records.results() if r.status == "ok"}
        self.generated = {(g.cell_id, g.prompt_index) for g in read_generations(self.store.folder)}

    def process_count(self, cell: Cell) -> int:
        """In how many processes a cell is measured here."""
        return len(self.processes.get(cell.id, range(self.settings.processes)))

    def is_inspected(self, cell: Cell) -> bool:
        """Whether memory, step times and texts of a cell are taken here: in one place, wherever its processes run."""
        return 0 in self.processes.get(cell.id, (0,))

    @property
    def is_done(self) -> bool:
        """Whether every cell has ended."""
        return all(cell.id in self.ended for cell in self.plan.cells)

    def skip(self, reasons: Mapping[str, str], status: Status = "skipped") -> None:
        """Record that these cells (reasons by id) are not tried; a cell that has samples already is resumed instead."""
        is_new = False
        for cell in self.plan.cells:
            if cell.id not in reasons or cell.id in self.ended or self.store.samples(cell.id):
                continue
            result = self.store.records.result(cell.id)
            if result.status == "oom" or (result.status, result.reason) == (status, reasons[cell.id]):
                self.ended[cell.id] = result.status or status  # what was tried says more than a prediction
            else:
                self._record_end(cell, Failed(status, reasons[cell.id]))
                is_new = True
        if is_new:
            self.store.write_views()

    def run(self, prompts: PromptSets, *, together: bool) -> None:
        """Run everything that is left. `together`: all models fit in memory at once."""
        self.prompts = prompts
        began = time.perf_counter()
        try:
            self._run_processes(together)
        finally:
            self.store.append(DeviceTime(time.perf_counter() - began, **self.spent))
        self.progress.left(None, 0)

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
        """Whether a cell lacks repetitions."""
        last = self.settings.rounds - 1
        return cell.id not in self.ended and not self._visit_plan(cell, last, None).is_empty

    def _run_process(self, cells: Sequence[Cell], process: int, rounds: Sequence[int]) -> None:
        """A fresh process of each model, for its part of these cells."""
        if not rounds:
            return
        self._stop(cells)
        began = time.perf_counter()
        self.pool.start({c.model.key: c for c in cells})
        self.spent["loading_s"] += time.perf_counter() - began
        for number in rounds:
            for cell in visiting_order(cells, f"{self.experiment.seed}:{process}:{number}"):
                if cell.id not in self.ended:
                    self._visit(cell, process, number)

    def _stop(self, cells: Sequence[Cell]) -> None:
        for key in {c.model.key for c in cells}:
            self.pool.worker(key).stop()

    def _visit(self, cell: Cell, process: int, number: int) -> None:
        """One cell in one round: the number of repetitions is computed again once the pilot is recorded."""
        worker = self.pool.worker(cell.model.key)
        while cell.id not in self.ended:
            worker.start(cell)
            visit = self._visit_plan(cell, number, worker.process_id)
            if visit.is_empty or self._too_large(cell):
                return
            of = f"process {process + 1} of {self.process_count(cell)}, round {number + 1} of {self.settings.rounds}"
            self._show(cell, of)
            batches = in_batches(self._prompts(cell), cell.batch_size)
            self._record(worker, Repeat(cell, visit, number, batches))
            last = self._visit_plan(cell, self.settings.rounds - 1, worker.process_id)
            if cell.id in self.ended or not last.is_empty:
                continue
            # The process is done with the cell: what it has captured and compiled still serves.
            self._record(worker, MeterEnergy(cell, batches[0]))
            if cell.id not in self.ended and not self._is_left(cell):
                self._finish(cell)

    def _visit_plan(self, cell: Cell, number: int, process_id: int | None) -> RepetitionPlan:
        samples = self.store.samples(cell.id)
        return plan_repetitions(samples, self.settings, number, process_id, self.process_count(cell))

    def _too_large(self, cell: Cell) -> bool:
        """Whether a smaller batch of the same shape ran out of memory; if so, this cell is recorded as oom, untried."""
        for other in self.plan.cells:
            smaller = other.shape_key == cell.shape_key and other.batch_size < cell.batch_size
            if smaller and self.ended.get(other.id) == "oom":
                self._end(cell, Failed("oom", f"not tried: batch {other.batch_size} of this shape ran out of memory"))
                return True
        return False

    def _finish_complete(self, cells: Sequence[Cell]) -> None:
        """Finish the cells that have all their repetitions, model by model."""
        for cell in sorted(cells, key=lambda c: c.model.key):
            if cell.id not in self.ended and not self._is_left(cell):
                self._finish(cell)

    def _finish(self, cell: Cell) -> None:
        """Profile a cell, generate its missing texts, and record its end."""
        worker = self.pool.worker(cell.model.key)
        result = self.store.records.result(cell.id)
        prompts = self._prompts(cell)
        if self.is_inspected(cell) and (result.traced is None or result.memory is None):
            self._show(cell, "step times and memory")
            latency_s = median(s.latency_s for s in result.timed) if result.timed else None
            self._record(worker, ProfileCell(cell, in_batches(prompts, cell.batch_size)[0], latency_s))
        missing = self._missing(cell)
        if missing and cell.id not in self.ended:
            self._show(cell, "texts for scoring")
            size = max(MISSING_BATCH_SIZE, cell.batch_size)
            parts = [missing[i : i + size] for i in range(0, len(missing), size)]
            batches = tuple(PromptBatch(part, prompts.prompt_hash) for part in parts)
            self._record(worker, GenerateMissing(cell, batches))
        if cell.id not in self.ended:
            self._end(cell, None)

    def _record(self, worker: Worker, request: Repeat | MeterEnergy | ProfileCell | GenerateMissing) -> None:
        """Send a request and record each reply as it comes."""
        cell, began = request.cell, time.perf_counter()
        for reply in worker.ask(request):
            if isinstance(reply, Failed):
                self._end(cell, reply)
            elif isinstance(reply, Repetition):
                self.store.append(reply.sample)
                self._keep(cell, reply.generations)
                self.spent["warmup_s" if reply.sample.is_warmup else "timed_s"] += reply.sample.wall_s
                self.progress.repetition(cell, reply.sample.latency_s)
            elif isinstance(reply, StoredGeneration):
                self._keep(cell, (reply,))
            else:
                self.store.append(reply)
                self.spent["windows_s"] += reply.region_s if isinstance(reply, EnergyWindow) else 0.0
        if isinstance(request, ProfileCell | GenerateMissing):
            self.spent["inspection_s"] += time.perf_counter() - began

    def _keep(self, cell: Cell, generations: Sequence[StoredGeneration]) -> None:
        new = [g for g in generations if cell.id in self.scored and (cell.id, g.prompt_index) not in self.generated]
        self.store.add_generations(new)
        self.generated |= {(g.cell_id, g.prompt_index) for g in new}

    def _end(self, cell: Cell, failure: Failed | None) -> None:
        self._record_end(cell, failure)
        self.store.write_views()

    def _record_end(self, cell: Cell, failure: Failed | None) -> None:
        status = CellStatus(cell.id, failure.status, failure.reason) if failure else CellStatus(cell.id, "ok")
        self.store.append(status)
        self.ended[cell.id] = status.status
        if failure:
            self.progress.failed(cell, failure.reason)

    def _show(self, cell: Cell, doing: str) -> None:
        """Report the current activity, and the estimated remaining time."""
        results = [self.store.records.result(c.id) for c in self.plan.cells]
        texts = {c.id: len(self._missing(c)) for c in self.plan.cells if c.id not in self.ended}
        processes = {c.id: self.process_count(c) for c in self.plan.cells}
        left = remaining(results, self.ended, self.settings, self.expectation, texts, MISSING_BATCH_SIZE, processes)
        self.progress.left(left.seconds, left.unknown)
        self.progress.cell(cell, doing)

    def _missing(self, cell: Cell) -> tuple[Prompt, ...]:
        """The prompts whose generated texts scoring still needs."""
        if cell.id not in self.scored:
            return ()
        return tuple(p for p in self._prompts(cell).prompts if (cell.id, p.index) not in self.generated)

    def _prompts(self, cell: Cell) -> PromptBatch:
        return self.prompts[cell.model.key, cell.prompt_tokens, cell.new_tokens]
