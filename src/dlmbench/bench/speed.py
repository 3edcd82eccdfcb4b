"""The speed pass: every cell repeated as the protocol requires, in rounds, each model in its own worker process.

Cells are visited in rounds, in shuffled order, so that drift spreads over all of them. Where all models fit in the
device's memory their processes stay alive and alternate; otherwise baseline, target and baseline again run one after
the other, and the two baseline passes check for drift. What is left to do follows from the records alone, so a
resumed run is the same code as a fresh one.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dlmbench.bench.forecast import Expectation, remaining
from dlmbench.bench.worker import Failed, GenerateMissing, Pool, ProfileCell, Repeat, Repetition, Worker
from dlmbench.measure.protocol import plan_repetitions
from dlmbench.prompts import in_batches
from dlmbench.results import Store
from dlmbench.types import (
    Cell,
    CellStatus,
    Plan,
    Progress,
    Prompt,
    PromptBatch,
    PromptSets,
    ProtocolSettings,
    StoredGeneration,
)

# Batch size for prompts that no timed repetition has used. That the other rows of a batch do not change a row's text is
# only shown on the CPU in float32; on a GPU in bfloat16 the batch size changes texts.
MISSING_BATCH_SIZE = 16


@dataclass
class SpeedPass:
    """The speed pass of one plan, recorded in a store."""

    plan: Plan
    settings: ProtocolSettings
    store: Store
    pool: Pool
    progress: Progress
    expectation: Expectation
    seed: int
    texts_needed: bool = True

    def __post_init__(self) -> None:
        self.prompts: PromptSets = {}
        is_scored = {cell.id: self.texts_needed and cell.model.weights != "random" for cell in self.plan.scored_cells}
        self.scored = {cell_id for cell_id, scored in is_scored.items() if scored}
        # A later run may try what was skipped because of a prediction.
        self.ended = {r.cell.id: r.status for r in self.store.results() if r.status not in (None, "skipped")}
        self.generated = {(g.cell_id, g.prompt_index) for g in self.store.generations()}

    @property
    def is_done(self) -> bool:
        """Whether every cell has ended."""
        return all(cell.id in self.ended for cell in self.plan.cells)

    def skip(self, reasons: Mapping[str, str]) -> None:
        """Record these cells (reasons by id) as skipped; a cell that has samples already is resumed instead."""
        is_new = False
        for cell in self.plan.cells:
            if cell.id not in reasons or cell.id in self.ended or self.store.samples(cell.id):
                continue
            result = self.store.result(cell.id)
            if (result.status, result.reason) == ("skipped", reasons[cell.id]):
                self.ended[cell.id] = "skipped"
            else:
                self._record_end(cell, Failed("skipped", reasons[cell.id]))
                is_new = True
        if is_new:
            self.store.write_views()

    def run(self, prompts: PromptSets, *, together: bool) -> None:
        """Run everything that is left. `together`: all models fit in memory at once."""
        self.prompts = prompts
        rounds = range(self.settings.rounds)
        if together:
            self.pool.start({c.model.key: c for c in self.plan.cells if c.id not in self.ended})
            for number in rounds:
                self._round(self.plan.cells, number)
        else:
            baseline = [c for c in self.plan.cells if c.model.role == "baseline"]
            target = [c for c in self.plan.cells if c.model.role != "baseline"]
            for cells, numbers in ((baseline, rounds[:-1]), (target, rounds), (baseline, rounds[-1:])):
                for number in numbers:
                    self._round(cells, number)
                self._stop(cells)
        for key in dict.fromkeys(c.model.key for c in self.plan.cells):
            cells = [c for c in self.plan.cells if c.model.key == key and c.id not in self.ended]
            for cell in cells:
                self._finish(cell)
            if not together:
                self._stop(cells)
        self.progress.left(None, 0)

    def _round(self, cells: Sequence[Cell], number: int) -> None:
        order = list(cells)
        random.Random(f"{self.seed}:{number}").shuffle(order)
        if self.settings.fresh_process_per_round:
            self._stop(cells)
        for cell in order:
            if cell.id not in self.ended:
                self._visit(cell, number)

    def _stop(self, cells: Sequence[Cell]) -> None:
        for key in {c.model.key for c in cells}:
            self.pool.worker(key).stop()

    def _visit(self, cell: Cell, number: int) -> None:
        """One cell in one round: the number of repetitions is computed again once the pilot is recorded."""
        worker = self.pool.worker(cell.model.key)
        while cell.id not in self.ended:
            fresh = cell.id not in worker.visited
            visit = plan_repetitions(self.store.samples(cell.id), self.settings, number, fresh_process=fresh)
            if visit.is_empty or self._too_large(cell):
                return
            self._show(cell, f"round {number + 1} of {self.settings.rounds}")
            worker.visited.add(cell.id)
            self._record(worker, Repeat(cell, visit, number, in_batches(self._prompts(cell), cell.batch_size)))

    def _too_large(self, cell: Cell) -> bool:
        """Whether a smaller batch of the same shape ran out of memory; if so, this cell is recorded as oom, untried."""
        for other in self.plan.cells:
            smaller = other.quality_key == cell.quality_key and other.batch_size < cell.batch_size
            if smaller and self.ended.get(other.id) == "oom":
                self._end(cell, Failed("oom", f"not tried: batch {other.batch_size} of this shape ran out of memory"))
                return True
        return False

    def _finish(self, cell: Cell) -> None:
        """Profile a cell, generate its missing texts, and record its end."""
        worker = self.pool.worker(cell.model.key)
        result = self.store.result(cell.id)
        prompts = self._prompts(cell)
        if result.traced is None or result.memory is None:
            self._show(cell, "step times and memory")
            self._record(worker, ProfileCell(cell, in_batches(prompts, cell.batch_size)[0]))
        missing = self._missing(cell)
        if missing and cell.id not in self.ended:
            self._show(cell, "texts for scoring")
            size = max(MISSING_BATCH_SIZE, cell.batch_size)
            parts = [missing[i : i + size] for i in range(0, len(missing), size)]
            batches = tuple(PromptBatch(part, prompts.prompt_hash) for part in parts)
            self._record(worker, GenerateMissing(cell, batches))
        if cell.id not in self.ended:
            self._end(cell, None)

    def _record(self, worker: Worker, request: Repeat | ProfileCell | GenerateMissing) -> None:
        """Send a request and record each reply as it comes."""
        cell = request.cell
        for reply in worker.ask(request):
            if isinstance(reply, Failed):
                self._end(cell, reply)
            elif isinstance(reply, Repetition):
                self.store.append(reply.sample)
                self._keep(cell, reply.generations)
                self.progress.repetition(cell, reply.sample.latency_s)
            elif isinstance(reply, StoredGeneration):
                self._keep(cell, (reply,))
            else:
                self.store.append(reply)

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
        results = [self.store.result(c.id) for c in self.plan.cells]
        texts = {c.id: len(self._missing(c)) for c in self.plan.cells if c.id not in self.ended}
        left = remaining(results, self.ended, self.settings, self.expectation, texts, MISSING_BATCH_SIZE)
        self.progress.left(left.seconds, left.unknown)
        self.progress.cell(cell, doing)

    def _missing(self, cell: Cell) -> tuple[Prompt, ...]:
        """The prompts whose generated texts scoring still needs."""
        if cell.id not in self.scored:
            return ()
        return tuple(p for p in self._prompts(cell).prompts if (cell.id, p.index) not in self.generated)

    def _prompts(self, cell: Cell) -> PromptBatch:
        return self.prompts[cell.model.key, cell.prompt_tokens, cell.new_tokens]
