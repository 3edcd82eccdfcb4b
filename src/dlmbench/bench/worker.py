"""Worker processes: each holds one model, takes requests over a pipe, and sends records back one by one.

A process per model means that one model's memory, captured graphs or crash never affect another's numbers. The parent
owns the records: what a worker has sent is safe, whatever happens to the worker next.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import secrets
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, TypeVar

from dlmbench import models, registry
from dlmbench.errors import BenchError, InvalidLogitsError
from dlmbench.measure.clock import Clock, clock_for
from dlmbench.measure.host import HostLoad
from dlmbench.measure.memory import measure_memory
from dlmbench.measure.nvml import GpuMeter, measure_energy
from dlmbench.measure.protocol import RepetitionPlan, timed_repetition, traced_pass
from dlmbench.models import LoadedModel
from dlmbench.models.tokenizer import CheckpointTokenizer
from dlmbench.prompts import source_attribute
from dlmbench.sampling.generator import generator_for
from dlmbench.types import (
    Cell,
    CommitOrder,
    EnergyWindow,
    Generation,
    Generator,
    MemoryPass,
    OnStep,
    PromptBatch,
    Sample,
    Status,
    StoredGeneration,
    TextResult,
    Texts,
    TracedPass,
)

# A traced generation that takes longer than the timed ones by this share has no times to keep.
SLOWER_WHEN_TRACED = 0.05
# A process hangs that says nothing for this long; native code may be compiled meanwhile.
MOST_SILENT_S = 900.0
# A process that is still loading its model after this long hangs: 16 GB in an hour are 5 MB/s.
MOST_LOADING_S = 3600.0

ReplyT = TypeVar("ReplyT")
ReplyT_co = TypeVar("ReplyT_co", covariant=True)


@dataclass(frozen=True)
class Placement:
    """Which of several equal devices worker processes compute on; `Placement()` leaves it to torch.

    visible: CUDA_VISIBLE_DEVICES of the process. threads: of torch, on a CPU. name: in messages.
    """

    visible: str | None = None
    threads: int | None = None
    name: str = ""


ANYWHERE = Placement()


# ---------------------------------------------------------------- in the worker: the model and what it generates


@dataclass(frozen=True)
class CellGenerator:
    """A cell with what generates its texts and what their tokens are counted by.

    tokenizer: None where the model has none. eos_ids: the tokens that end a text, empty where they mean nothing.
    """

    cell: Cell
    generator: Generator
    tokenizer: CheckpointTokenizer | None
    eos_ids: tuple[int, ...]

    def generate(self, batch: PromptBatch, on_step: OnStep | None = None, trace: bool = False) -> Generation:
        """One generation with the cell's knobs and seed."""
        cell = self.cell
        return self.generator.generate(batch, cell.new_tokens, dict(cell.knobs), cell.seed, on_step, trace)

    def useful_tokens(self, generation: Generation) -> int | None:
        """Tokens up to and including the first end of text, over all rows."""
        ends, rows = self.eos_ids, generation.tokens_BG
        if not ends:
            return None
        return sum(next((n for n, token in enumerate(row, 1) if token in ends), len(row)) for row in rows)

    def output_bytes(self, generation: Generation) -> int | None:
        """Bytes of the decoded text, over all rows."""
        if self.tokenizer is None:
            return None
        return sum(len(self.tokenizer.decode(row).encode()) for row in generation.tokens_BG)

    def texts(self, batch: PromptBatch, generation: Generation) -> Iterator[StoredGeneration]:
        """Each row as it is stored."""
        for prompt, row in zip(batch.prompts, generation.tokens_BG, strict=True):
            single = Generation((row,), generation.forwards, 0, 0)
            yield StoredGeneration(
                cell_id=self.cell.id,
                prompt_index=prompt.index,
                prompt_hash=batch.prompt_hash,
                output_ids=row,
                text=self.tokenizer.decode(row) if self.tokenizer else None,
                forwards=generation.forwards,
                useful_tokens=self.useful_tokens(single),
                output_bytes=self.output_bytes(single),
            )


class WorkerState:
    """State of a worker process between requests."""

    def __init__(self, device: str, process_id: int = 0) -> None:
        self.device = device
        self.process_id = process_id
        self.clock: Clock = clock_for(device)
        self.meter = GpuMeter.of_device(device)
        self.host = HostLoad()
        self._loaded: tuple[object, LoadedModel] | None = None  # by spec, engine, precision and attention
        self._last_cell: str | None = None  # the id of the cell that the captured graphs belong to
        self._load: tuple[object, float] | None = None  # the visit under way, and when it began

    def load(self, cell: Cell) -> LoadedModel:
        """The model of a cell: the one that is loaded already if it is the right one, else this one in its place."""
        key = (cell.model, cell.engine, cell.precision, cell.attention)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # free the memory before the next model takes it
            model = models.load(
                cell.model,
                engine=cell.engine,
                precision=cell.precision,
                attention=cell.attention,
                device=self.device,
                seed=cell.seed,
            )
            self._loaded = (key, model)
        return self._loaded[1]

    def generator(self, cell: Cell) -> CellGenerator:
        """The generator of a cell, without the graphs and caches of other cells."""
        model = self.load(cell)
        generator = generator_for(model, cell.sampler)
        if self._last_cell != cell.id:
            # Other cells' graphs would count as this cell's memory; its own are kept for its next repetitions.
            generator.reset()
            self._last_cell = cell.id
        # Random weights end a text by chance, and the embedded corpus has no end-of-text token.
        has_end = cell.model.weights != "random" and source_attribute(cell.prompts, "HAS_EOS", True)
        return CellGenerator(cell, generator, model.tokenizer, model.architecture.eos_ids if has_end else ())

    def ask(self, request: WorkerRequest[ReplyT]) -> Iterator[ReplyT | Failed]:
        """Replies to `request` in this process, as `Worker.ask` gives them from another; errors are raised."""
        yield from request.run(self)

    def loaded_since_s(self, cell: Cell, round_index: int) -> float:
        """When this process began to run a cell in a round, by `clock.wall`."""
        if self._load is None or self._load[0] != (cell.id, round_index):
            self._load = (cell.id, round_index), self.clock.wall()
        return self._load[1]

    @cached_property
    def idle_power_w(self) -> float | None:
        """Power of the device while nothing runs; measured once per process, while the other workers wait."""
        return self.meter.idle_power_w()


# ---------------------------------------------------------------- requests and replies


class WorkerRequest(Protocol[ReplyT_co]):
    """A message to a worker: what it does there, and what it sends back. Both are pickled."""

    def run(self, state: WorkerState) -> Iterator[ReplyT_co]:
        """Called in the worker; each reply is sent as soon as it is yielded."""


@dataclass(frozen=True)
class Failed:
    """A request that failed, and how that is recorded."""

    status: Status
    reason: str


@dataclass(frozen=True)
class Repetition:
    """One sample with the texts it generated."""

    sample: Sample
    generations: tuple[StoredGeneration, ...]


@dataclass(frozen=True)
class Repeat:
    """Run one visit of a cell: warm-ups, then timed repetitions, cycling through `batches`."""

    cell: Cell
    visit: RepetitionPlan
    round: int
    batches: tuple[PromptBatch, ...]

    def run(self, state: WorkerState) -> Iterator[Repetition]:
        """One reply per repetition."""
        generator, visit = state.generator(self.cell), self.visit
        state.host.begin()
        todo = [(True, visit.first_warmup_index + i) for i in range(visit.warmups)]
        todo += [(False, visit.first_index + i) for i in range(visit.repetitions)]
        for is_warmup, index in todo:
            batch = self.batches[index % len(self.batches)]
            sample, generation = timed_repetition(
                lambda batch=batch: generator.generate(batch),  # type: ignore[misc]
                state.clock,
                cell_id=self.cell.id,
                index=index,
                is_warmup=is_warmup,
                round_index=self.round,
                process_id=state.process_id,
                loaded_since_s=state.loaded_since_s(self.cell, self.round),
                meter=state.meter,
                host=state.host,
                useful_tokens=generator.useful_tokens,
                output_bytes=generator.output_bytes,
            )
            yield Repetition(sample, () if is_warmup else tuple(generator.texts(batch, generation)))


@dataclass(frozen=True)
class MeterEnergy:
    """Energy of a cell in this process, right after its timed repetitions; no reply without an energy counter."""

    cell: Cell
    batch: PromptBatch

    def run(self, state: WorkerState) -> Iterator[EnergyWindow]:
        """At most one reply."""
        generator = state.generator(self.cell)
        generate = partial(generator.generate, self.batch)
        window = measure_energy(self.cell.id, state.process_id, generate, state.clock, state.meter)
        if window is not None:
            yield window


@dataclass(frozen=True)
class ProfileCell:
    """Everything else that is measured outside the timed repetitions: peak memory, times of steps, the commit order.

    One generation from a clean start yields all of it where its steps are as fast as those of the timed repetitions,
    whose median is latency_s. Elsewhere (graphs are captured in it, memory is requested anew) the times come from a
    second one; so do those of an autoregressive cell, where the first token's time would show a clean start.
    """

    cell: Cell
    batch: PromptBatch
    latency_s: float | None

    def run(self, state: WorkerState) -> Iterator[TracedPass | CommitOrder | MemoryPass]:
        """One reply per record."""
        cell, batch, generator = self.cell, self.batch, state.generator(self.cell)
        is_autoregressive = registry.load("samplers", cell.sampler).PARADIGM == "autoregressive"
        generations: list[Generation] = []
        passes: list[TracedPass] = []

        def generate(on_step: OnStep) -> Generation:
            generations.append(generator.generate(batch, on_step, trace=True))
            return generations[-1]

        def inspect() -> None:
            passes.append(
                traced_pass(
                    generate,
                    state.clock,
                    cell_id=cell.id,
                    process_id=state.process_id,
                    is_autoregressive=is_autoregressive,
                )
            )

        generator.generator.reset()
        memory = measure_memory(cell.id, state.process_id, inspect, state.device)
        if is_autoregressive or not self.is_as_fast(passes[0]):
            inspect()
        yield passes[-1]
        first = generations[0]
        if first.trace is not None:
            order = first.trace.committed_at_BG[0], first.trace.confidence_BG[0]
            yield CommitOrder(cell.id, batch.prompts[0].index, first.forwards, *order)
        yield replace(memory, idle_power_w=state.idle_power_w)

    def is_as_fast(self, traced: TracedPass) -> bool:
        """Whether a traced generation took no longer than the timed ones, within `SLOWER_WHEN_TRACED`."""
        assert traced.traced_s is not None
        return self.latency_s is not None and traced.traced_s <= (1 + SLOWER_WHEN_TRACED) * self.latency_s


@dataclass(frozen=True)
class GenerateMissing:
    """Generate, untimed, for the prompts that no timed repetition has used."""

    cell: Cell
    batches: tuple[PromptBatch, ...]

    def run(self, state: WorkerState) -> Iterator[StoredGeneration]:
        """One reply per text."""
        generator = state.generator(self.cell)
        for batch in self.batches:
            yield from generator.texts(batch, generator.generate(batch))


@dataclass(frozen=True)
class ScoreTexts:
    """Score texts by a metric that needs the cell's model, or a model of its own."""

    metric: str
    texts: Texts

    def run(self, state: WorkerState) -> Iterator[TextResult]:
        """One reply per score."""
        module = registry.load("metrics", self.metric)
        model = state.load(self.texts.cell).language_model if "model" in module.NEEDS else None
        results: Iterable[TextResult] = module.score(replace(self.texts, device=state.device, model=model))
        yield from results


# ---------------------------------------------------------------- the process


def failure(error: Exception) -> Failed:
    """How an exception is recorded."""
    import torch

    # On the CPU torch raises a plain RuntimeError, whose text is that of its allocator.
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error):
        peak = f"; peak allocated {torch.cuda.max_memory_allocated()} bytes" if torch.cuda.is_available() else ""
        return Failed("oom", f"out of memory{peak}")
    if isinstance(error, InvalidLogitsError):
        return Failed("invalid", str(error))
    reason = f"{type(error).__name__}: {error}" if not isinstance(error, BenchError) else str(error)
    home = os.environ.get("HOME", "").rstrip("/")
    return Failed("error", reason.replace(f"{home}/", "~/") if home else reason)  # results are passed on


# What a pipe raises once the process at its other end died; a plain OSError where that was in the middle of a message.
_DIED = (EOFError, OSError)
_READY = "ready"  # a worker's first message: libraries are imported and its first model is loaded


def _serve(connection: Connection, device: str, placement: Placement, process_id: int, first: Cell | None) -> None:
    """The worker's main loop; ends when the parent closes the pipe or dies."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):  # sent to the whole group, they are for the parent
        signal.signal(number, signal.SIG_IGN)
    if placement.visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = placement.visible  # read when torch first looks for a GPU
    import torch
    from transformers.utils import logging

    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        logging.set_verbosity_error()
    if placement.threads is not None:
        torch.set_num_threads(placement.threads)
    state = WorkerState(device, process_id)
    try:
        if first is not None:
            with contextlib.suppress(Exception):  # it fails again, and is recorded, when the cell runs
                state.load(first)
        connection.send(_READY)
        while (request := connection.recv()) is not None:
            try:
                for reply in request.run(state):
                    connection.send(reply)
            except Exception as error:  # one cell's failure must not stop the others
                connection.send(failure(error))
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            connection.send(None)
    except _DIED:
        os._exit(1)


class Worker:
    """The parent's handle on one model's process, which starts at its first request."""

    def __init__(self, device: str, placement: Placement = ANYWHERE) -> None:
        self.device, self.placement = device, placement
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._is_ready = False
        self._unstarted = ""  # why the last process could not start
        self._silent_s: float | None = None  # after how long a process was ended that gave no sign of life
        self._is_killed = threading.Event()
        self.process_id = 0  # of the process, new for each one; see `Sample`

    def ask(self, request: WorkerRequest[ReplyT], silence_s: float | None = None) -> Iterator[ReplyT | Failed]:
        """Replies to `request` as they come; the last may be `Failed`.

        silence_s: a process that says nothing for so long hangs: it is ended.
        """
        self.start()
        if self._process is None:
            yield Failed("error", f"the model's process did not start: {self._unstarted}")
            return
        assert self._connection is not None
        try:
            self._until_ready()
            self._connection.send(request)
            while (reply := self._receive(silence_s)) is not None:
                yield reply
        except _DIED:
            yield Failed("error", self._cause_of_death())

    def _receive(self, silence_s: float | None) -> Any:
        """The next message; one of `_DIED` where the process has ended, or has been silent for `silence_s`."""
        assert self._connection is not None
        assert self._process is not None
        if not self._connection.poll(silence_s):
            self._silent_s = silence_s
            self._process.kill()
        return self._connection.recv()

    def _cause_of_death(self) -> str:
        """Why the process that has just ended did so, in words; the next request starts another."""
        assert self._process is not None
        self._process.join(timeout=10)
        code = -signal.SIGKILL if self._process.exitcode is None else self._process.exitcode
        self._process = self._connection = None
        if self._silent_s is not None:
            return f"the model's process gave no answer for {self._silent_s:.0f} s and was ended"
        how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
        advice = "; the system may have run out of memory" if code == -signal.SIGKILL else ""
        return f"the model's process died: {how}{advice}"

    def start(self, first: Cell | None = None) -> None:
        """Start the process, if there is none, without waiting for it; it loads the model of the cell `first`.

        Where the system cannot start one, the next request tries again and says why.
        """
        if self._process is not None:
            return
        if self.device == "cpu":
            # A thread that spins while it waits takes a core from the one it waits for: with another process on a
            # core, a forward of the embedded pair took 950 ms instead of 20. libgomp reads this when torch loads it.
            os.environ.setdefault("GOMP_SPINCOUNT", "2000")
        context = multiprocessing.get_context("spawn")
        self.process_id = secrets.randbits(48)
        try:
            self._connection, theirs = context.Pipe()
            arguments = (theirs, self.device, self.placement, self.process_id, first)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
        except OSError as error:  # no memory or no files left
            self._unstarted, self._connection = str(error), None
            return
        self._process = process  # once there is something to kill
        theirs.close()
        self._is_ready, self._silent_s = False, None
        if self._is_killed.is_set():
            process.kill()

    def wait(self) -> None:
        """Wait until the process is ready for requests, or has died: its first request says so then."""
        with contextlib.suppress(*_DIED):
            if self._process is not None:
                self._until_ready()

    def _until_ready(self) -> None:
        if not self._is_ready:
            message = self._receive(MOST_LOADING_S)
            assert message == _READY
            self._is_ready = True

    def kill(self) -> None:
        """End this worker for good, from any thread: whoever waits for its reply learns that the process died."""
        self._is_killed.set()
        if (process := self._process) is not None:
            process.kill()

    def dismiss(self) -> None:
        """Tell the process to end, without waiting for it."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.send(None)
                self._connection.close()

    def stop(self) -> None:
        """End the process; the next request starts a new one."""
        self.dismiss()
        if self._process is not None:
            self._process.join(timeout=5)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
        self._process = self._connection = None


class Pool:
    """One worker per model key. Leaving the `with` block ends them all."""

    def __init__(self, keys: Iterable[str], device: str, placement: Placement = ANYWHERE) -> None:
        self.device, self.placement = device, placement
        self._workers = {key: Worker(device, placement) for key in keys}

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None:
            self.kill()  # nobody waits for what they still compute
        self.stop()

    def stop(self, keys: Iterable[str] | None = None) -> None:
        """End the processes of these models, of all with None, at the same time."""
        workers = [self._workers[key] for key in (self._workers if keys is None else keys)]
        for worker in workers:
            worker.dismiss()
        for worker in workers:
            worker.stop()

    def kill(self) -> None:
        """End all workers at once, from any thread."""
        for worker in self._workers.values():
            worker.kill()

    def start(self, first: Mapping[str, Cell]) -> None:
        """Start these models' workers and wait for all, so that none loads while another measures."""
        for key, cell in first.items():
            self._workers[key].start(cell)
        for key in first:
            self._workers[key].wait()

    def worker(self, key: str) -> Worker:
        """The worker of a model."""
        return self._workers[key]
