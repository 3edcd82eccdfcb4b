"""The self-check: the protocol and the worker processes of a run, on work whose result is known.

A few fresh processes each time the same cells (A/A), which shows how far equal runs differ. Every second process also
times them with slowdowns planted into the generate call (A/B), which shows what would have been noticed. More
processes make the noise floor tighter, so they are added for as long as the time allows.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from dlmbench import registry
from dlmbench.bench.generate import default_precision, resolve_knobs
from dlmbench.bench.worker import MOST_SILENT_S, Failed, Placement, Repeat, Worker, WorkerRequest, WorkerState
from dlmbench.errors import BenchError
from dlmbench.measure.host import others_cpu_s
from dlmbench.measure.protocol import RepetitionPlan
from dlmbench.measure.selfcheck import (
    KNOWN_LENGTHS_S,
    PLANTED,
    clock_bias,
    clock_resolution,
    known_workloads,
    noise_floor,
    planted_slowdown,
    repetition,
)
from dlmbench.models import identity
from dlmbench.types import (
    BUSY,
    LAUNCH_BOUND,
    Cell,
    ClockBias,
    Environment,
    Generation,
    KnobValue,
    ModelSpec,
    NeighbourCost,
    NoiseFloor,
    PlantedSlowdown,
    Prompt,
    PromptBatch,
    Selfcheck,
    Weights,
)

ENGINES = ("hf", "native")
MIN_PROCESSES, MAX_PROCESSES = 3, 6
BUDGET_S = {"cpu": 150.0, "cuda": 330.0}
_WARMUPS = 3
# Timed repetitions of a visit: as many as take `_VISIT_S`, within these limits; so many of each planted slowdown.
_MIN_REPETITIONS, _MAX_REPETITIONS, _VISIT_S, _PLANTED_REPETITIONS = 5, 15, 1.5, 5
_BYTES_FOR_8B = 24e9  # of device memory

ReplyT = TypeVar("ReplyT")
ClockReport = tuple[tuple[ClockBias, ...], float]
OnProgress = Callable[[str, int, int], None]  # what is being done, steps done, steps in all


# ---------------------------------------------------------------- requests


@dataclass(frozen=True)
class CheckClock:
    """Time work of known length."""

    def run(self, state: WorkerState) -> Iterator[ClockReport]:
        """What the clock shows for it, and the clock's resolution in seconds."""
        work = known_workloads(state.device)
        bias = [clock_bias(state.clock, name, work[name], s) for name in work for s in KNOWN_LENGTHS_S]
        yield tuple(bias), clock_resolution(state.clock)


@dataclass(frozen=True)
class RepeatSlowed:
    """Repeat a cell without and with each planted slowdown, in turn. plain_s: its latency in this process."""

    cell: Cell
    batch: PromptBatch
    plain_s: float
    repetitions: int

    def run(self, state: WorkerState) -> Iterator[tuple[float, float]]:
        """(the share that was added to its latency, its latency in seconds) of each repetition."""
        generator = state.generator(self.cell)
        *_, keep_busy = known_workloads(state.device).values()

        def generate(planted: float) -> Generation:
            generation = generator.generate(self.batch)
            if planted:
                keep_busy(planted * self.plain_s)
            return generation

        for index in range(self.repetitions):
            for planted in (0.0, *PLANTED):
                sample = repetition(partial(generate, planted), state.clock, index, state.meter)
                yield planted, sample.latency_s


# ---------------------------------------------------------------- the cells


@dataclass
class CheckedCell:
    """A cell with its kind, and medians by process.

    plain_s: of all processes, as they are. unplanted_s: of those among them in which no slowdown was planted.
    slowed_s: of the others, by planted slowdown.
    """

    cell: Cell
    kind: str
    batch: PromptBatch
    plain_s: list[float] = field(default_factory=list)
    unplanted_s: list[float] = field(default_factory=list)
    slowed_s: dict[float, list[float]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For progress and messages."""
        return f"{self.cell.engine}, {self.kind}"

    def floor(self) -> NoiseFloor:
        """The noise floor by all processes."""
        return noise_floor(self.kind, self.cell.engine, self.plain_s)

    def detected(self) -> Iterator[PlantedSlowdown]:
        """What was found of each slowdown: the processes with it against the others without."""
        for planted in PLANTED:
            slowed_s, plain_s = self.slowed_s[planted], self.slowed_s[0.0]
            within = statistics.median(s / plain for s, plain in zip(slowed_s, plain_s, strict=True))
            yield planted_slowdown(self.floor(), planted, self.unplanted_s, slowed_s, within - 1)


def checked_cells(environment: Environment, device: str, engines: Sequence[str]) -> list[CheckedCell]:
    """A launch-bound and a busy cell for each engine: decoding at batch size 1, and denoising of a batch.

    They have the 8B shapes with random weights on a GPU with enough memory, else the embedded pair.

    Raises:
        BenchError: an unknown engine.
    """
    is_large = device == "cuda" and environment.memory_bytes >= _BYTES_FOR_8B
    weights: Weights = "random" if is_large else "pretrained"
    ar = ModelSpec("llama", "llama", "8b" if is_large else "embedded:ar", "baseline", weights=weights)
    llada = ModelSpec("llada", "llada", "8b" if is_large else "embedded:llada", "target", weights=weights)
    cells = []
    for engine in engines:
        registry.load("engines", engine)
        cells.append(_checked(engine, ar, LAUNCH_BOUND, (1, 64, 32 if is_large else 16), device, {}))
        cells.append(_checked(engine, llada, BUSY, (8 if is_large else 4, 64, 64), device, {"steps": 4}))
    return cells


def _checked(
    engine: str, spec: ModelSpec, kind: str, shape: tuple[int, int, int], device: str, chosen: dict[str, KnobValue]
) -> CheckedCell:
    spec, sampler = identity.find_identified(spec).spec, registry.load("families", spec.family).SAMPLER
    rows, prompt_tokens, new_tokens = shape
    knobs = tuple(sorted(resolve_knobs(sampler, chosen, engine, new_tokens).items()))
    precision = default_precision(device)
    cell = Cell(spec, engine, sampler, knobs, rows, prompt_tokens, new_tokens, precision, "auto", 0, "selfcheck")
    # The time does not depend on the text.
    prompts = tuple(Prompt(i, tuple(range(1, prompt_tokens + 1))) for i in range(rows))
    return CheckedCell(cell, kind, PromptBatch(prompts, "selfcheck"))


# ---------------------------------------------------------------- the check


def run_selfcheck(
    environment: Environment,
    device: str,
    on_progress: OnProgress,
    engines: Sequence[str],
    budget_s: float,
    placements: Sequence[Placement] = (),
) -> Selfcheck:
    """Check the instrument on this machine, and with several `placements` what busy neighbours cost.

    At least `MIN_PROCESSES` processes are started, then more for as long as `budget_s` allows, up to `MAX_PROCESSES`;
    where it is too short to plant slowdowns, without. How many does not depend on what they measured.

    Raises:
        BenchError: an unknown engine, or no cell could be measured.
    """
    at, started_s, before_s = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic(), others_cpu_s()
    load_average = os.getloadavg()[0]
    check = _Check(device, checked_cells(environment, device, engines), on_progress)
    duration_s: dict[bool, float] = {}  # of the latest process without, and with, planted slowdowns
    for number in range(MAX_PROCESSES):
        begun_s, plants = time.monotonic(), number % 2 == 1
        left_s = started_s + budget_s - begun_s
        if number >= MIN_PROCESSES:
            plants = plants and duration_s[True] <= left_s
            if duration_s[plants] > left_s:
                break
            check.processes = min(number + int(2 * left_s / sum(duration_s.values())) + 1, MAX_PROCESSES)
        check.run_process(number, plants)
        duration_s[plants] = time.monotonic() - begun_s
    assert check.clock is not None
    bias, resolution_s = check.clock
    neighbours = tuple(check.beside_neighbours(placements)) if len(placements) > 1 else ()
    whole_s = time.monotonic() - started_s
    return Selfcheck(
        device=environment.device,
        host=environment.host,
        environment_id=environment.id,
        at=at,
        duration_s=whole_s,
        floors=tuple(c.floor() for c in check.cells),
        detected=tuple(d for c in check.cells for d in c.detected()),
        bias=bias,
        overhead_s=statistics.median(check.overheads_s),
        clock_resolution_s=resolution_s,
        cores=len(os.sched_getaffinity(0)),
        load_average=load_average,
        other_cores=max(0.0, others_cpu_s() - before_s) / whole_s,
        other_processes=max(check.other_processes, default=None),
        not_measured=tuple(check.failed),
        neighbours=neighbours,
    )


def neighbour_cost(checked: CheckedCell, device: str, placements: Sequence[Placement]) -> NeighbourCost:
    """A cell on the first of several GPUs: while the others rest, while they run the same, and at rest again.

    Raises:
        BenchError: it failed on one of them.
    """
    with ExitStack() as stack, ThreadPoolExecutor(len(placements)) as threads:
        workers = [Worker(device, placement) for placement in placements]
        for worker in workers:
            stack.callback(worker.stop)
            worker.start(checked.cell)
        timed = partial(_latencies, checked=checked)
        list(threads.map(timed, workers))  # warm
        alone_s = timed(workers[0])
        beside_s, *_ = threads.map(timed, workers)
        alone_s += timed(workers[0])
    ratio = statistics.median(beside_s) / statistics.median(alone_s)
    return NeighbourCost(checked.kind, checked.cell.engine, len(placements), ratio)


def _latencies(worker: Worker, checked: CheckedCell) -> list[float]:
    visit = Repeat(checked.cell, RepetitionPlan(_WARMUPS, _MAX_REPETITIONS, 0, 0), 0, (checked.batch,))
    return [r.sample.latency_s for r in _replies(worker, visit) if not r.sample.is_warmup]


@dataclass
class _Check:
    """A self-check while it runs. overheads_s: of the harness per repetition, one for each visit of a cell."""

    device: str
    cells: list[CheckedCell]
    on_progress: OnProgress
    processes: int = MIN_PROCESSES
    overheads_s: list[float] = field(default_factory=list)
    other_processes: list[int] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    clock: ClockReport | None = None

    def run_process(self, number: int, plants: bool) -> None:
        """Time every cell in a fresh process; with `plants` also with each planted slowdown."""
        worker = Worker(self.device)
        try:
            self._show(number, 0, "start")
            worker.start(self.cells[0].cell)
            worker.wait()
            if self.clock is None:
                self._show(number, 0, "work of known length")
                (self.clock,) = _replies(worker, CheckClock())
            for done, checked in enumerate(list(self.cells)):
                self._show(number, done, checked.name)
                try:
                    self._visit(worker, checked, number, plants)
                except BenchError as failure:
                    self.failed.append(f"{checked.name}: {failure.message}")
                    self.cells.remove(checked)
            if not self.cells:
                raise BenchError(f"nothing could be measured: {self.failed[0]}", "See `dlmbench doctor`")
        finally:
            worker.stop()

    def beside_neighbours(self, placements: Sequence[Placement]) -> Iterator[NeighbourCost]:
        """What busy neighbours cost each cell; those that fail on a GPU are named in `failed`."""
        for done, checked in enumerate(self.cells):
            name = f"{checked.name}, beside {len(placements) - 1} busy GPUs"
            self.on_progress(name, done, len(self.cells))
            try:
                yield neighbour_cost(checked, self.device, placements)
            except BenchError as failure:
                self.failed.append(f"{name}: {failure.message}")

    def _visit(self, worker: Worker, checked: CheckedCell, number: int, plants: bool) -> None:
        cell, batches = checked.cell, (checked.batch,)
        *_, last = _replies(worker, Repeat(cell, RepetitionPlan(_WARMUPS, 0, 0, 0), number, batches))
        count = min(max(int(_VISIT_S / last.sample.latency_s), _MIN_REPETITIONS), _MAX_REPETITIONS)
        begun_s = time.perf_counter()
        timed = _replies(worker, Repeat(cell, RepetitionPlan(0, count, _WARMUPS, 0), number, batches))
        wall_s = time.perf_counter() - begun_s
        self.overheads_s.append((wall_s - sum(r.sample.latency_s for r in timed)) / count)
        self.other_processes += [n for r in timed if (n := r.sample.other_processes) is not None]
        plain_s = statistics.median(r.sample.latency_s for r in timed)
        if plants:
            slowed = _replies(worker, RepeatSlowed(cell, checked.batch, plain_s, _PLANTED_REPETITIONS))
            for planted in (0.0, *PLANTED):
                median_s = statistics.median(latency_s for share, latency_s in slowed if share == planted)
                checked.slowed_s.setdefault(planted, []).append(median_s)
        else:
            checked.unplanted_s.append(plain_s)
        checked.plain_s.append(plain_s)

    def _show(self, number: int, done: int, doing: str) -> None:
        each = len(self.cells)
        self.on_progress(f"process {number + 1}: {doing}", number * each + done, self.processes * each)


def _replies(worker: Worker, request: WorkerRequest[ReplyT]) -> list[ReplyT]:
    """All replies to a request.

    Raises:
        BenchError: it failed.
    """
    replies = []
    for reply in worker.ask(request, MOST_SILENT_S):
        if isinstance(reply, Failed):
            raise BenchError(reply.reason, "")
        replies.append(reply)
    return replies
