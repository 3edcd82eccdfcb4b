"""The speed pass: every cell repeated as the protocol says, in rounds, each model in a process of its own.

Cells are visited in rounds in a shuffled order, so that drift spreads over all of them. Where all models fit in the
device's memory their processes stay alive and alternate; otherwise baseline, target and baseline again run one after
the other, and the two baseline passes check for drift. Nothing is decided here twice: what is left to do follows from
the records alone, so a resumed run is the same code as a fresh one.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from dlmbench.bench.eta import Expectation, remaining
from dlmbench.bench.worker import Complete, Failed, Inspect, Pool, Repeat, Repetition, Worker
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

# Rows generated at once for prompts that no timed repetition met: batch mates never change a row.
COMPLETION_ROWS = 16


class SpeedPass:
    """One run of a plan into a store."""

    def __init__(
        self,
        plan: Plan,
        settings: ProtocolSettings,
        store: Store,
        pool: Pool,
        progress: Progress,
        expectation: Expectation,
        seed: int,
        texts_needed: bool = True,
    ) -> None:
        self.plan, self.settings, self.store, self.pool = plan, settings, store, pool
        self.progress, self.expectation, self.seed = progress, expectation, seed
        self.prompts: PromptSets = {}
        self.scored = {cell.id for cell in plan.scored_cells if texts_needed and cell.model.weights != "random"}
        # What was skipped on a prediction may be tried by a later run.
        self.ended = {r.cell.id: r.status for r in store.results() if r.status not in (None, "skipped")}
        self.generated = {(g.cell_id, g.prompt_index) for g in store.generations()}

    @property
    def is_done(self) -> bool:
        """Whether every cell has ended."""
        return all(cell.id in self.ended for cell in self.plan.cells)

    def skip(self, reasons: Mapping[str, str]) -> None:
        """End these cells untried, by id, each with its reason; what was begun already is gone on with."""
        new = []
        for cell in self.plan.cells:
            if cell.id in reasons and cell.id not in self.ended and not self.store.samples(cell.id):
                self.ended[cell.id] = "skipped"
                known = self.store.result(cell.id)
                if (known.status, known.reason) != ("skipped", reasons[cell.id]):
                    new.append(cell)
        for cell in new:
            self.store.append(CellStatus(cell.id, "skipped", reasons[cell.id]))
            self.progress.failed(cell, reasons[cell.id])
        if new:
            self.store.write_views()

    def run(self, prompts: PromptSets, *, together: bool) -> None:
        """Do all that is left. `together`: all models fit in memory at once."""
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
        """One cell in one round: the number of repetitions is asked again once the pilot is on record."""
        worker = self.pool.worker(cell.model.key)
        while cell.id not in self.ended:
            fresh = cell.id not in worker.met
            visit = plan_repetitions(self.store.samples(cell.id), self.settings, number, fresh_process=fresh)
            if visit.is_empty or self._too_large(cell):
                return
            self._show(cell, f"round {number + 1} of {self.settings.rounds}")
            worker.met.add(cell.id)
            self._take(worker, Repeat(cell, visit, number, in_batches(self._prompts(cell), cell.batch_size)))

    def _too_large(self, cell: Cell) -> bool:
        """Whether a smaller batch of the same shape ran out of memory; then this one is recorded as such, untried."""
        for other in self.plan.cells:
            smaller = other.quality_key == cell.quality_key and other.batch_size < cell.batch_size
            if smaller and self.ended.get(other.id) == "oom":
                self._end(cell, Failed("oom", f"not tried: batch {other.batch_size} of this shape ran out of memory"))
                return True
        return False

    def _finish(self, cell: Cell) -> None:
        """The passes of their own, the texts still missing, and the cell's end."""
        worker = self.pool.worker(cell.model.key)
        known = self.store.result(cell.id)
        every = self._prompts(cell)
        if known.traced is None or known.memory is None:
            self._show(cell, "inner times and memory")
            self._take(worker, Inspect(cell, in_batches(every, cell.batch_size)[0]))
        missing = self._missing(cell)
        if missing and cell.id not in self.ended:
            self._show(cell, "texts for scoring")
            rows = max(COMPLETION_ROWS, cell.batch_size)
            parts = (PromptBatch(missing[i : i + rows], every.prompt_hash) for i in range(0, len(missing), rows))
            self._take(worker, Complete(cell, tuple(parts)))
        if cell.id not in self.ended:
            self._end(cell, None)

    def _take(self, worker: Worker, request: Repeat | Inspect | Complete) -> None:
        """Put each reply on record as it comes."""
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
                assert not hasattr(reply, "metric")
                self.store.append(reply)

    def _keep(self, cell: Cell, generations: Sequence[StoredGeneration]) -> None:
        new = [g for g in generations if cell.id in self.scored and (cell.id, g.prompt_index) not in self.generated]
        self.store.add_generations(new)
        self.generated |= {(g.cell_id, g.prompt_index) for g in new}

    def _end(self, cell: Cell, failure: Failed | None) -> None:
        status = CellStatus(cell.id, failure.status, failure.reason) if failure else CellStatus(cell.id, "ok")
        self.store.append(status)
        self.ended[cell.id] = status.status
        if failure:
            self.progress.failed(cell, failure.reason)
        self.store.write_views()

    def _show(self, cell: Cell, doing: str) -> None:
        """Say what is done now, and how long all that is left should take."""
        results = [self.store.result(c.id) for c in self.plan.cells]
        texts = {c.id: len(self._missing(c)) for c in self.plan.cells if c.id not in self.ended}
        left = remaining(results, self.ended, self.settings, self.expectation, texts, COMPLETION_ROWS)
        self.progress.left(left.seconds, left.unknown)
        self.progress.cell(cell, doing)

    def _missing(self, cell: Cell) -> tuple[Prompt, ...]:
        """The prompts whose texts scoring still needs."""
        if cell.id not in self.scored:
            return ()
        return tuple(p for p in self._prompts(cell).prompts if (cell.id, p.index) not in self.generated)

    def _prompts(self, cell: Cell) -> PromptBatch:
        return self.prompts[cell.model.key, cell.prompt_tokens, cell.new_tokens]
