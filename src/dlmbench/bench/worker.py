"""A model in a process of its own: requests go in over a pipe, records come back one by one.

A process of its own means that one model's memory, captured state or crash never touches the other's numbers. The
parent owns the records: what a worker has sent is safe, whatever happens to the worker next.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

from dlmbench import registry
from dlmbench.errors import BenchError, InvalidLogitsError
from dlmbench.measure.clock import Clock, clock_for
from dlmbench.measure.memory import measure_memory
from dlmbench.measure.nvml import GpuMeter, measure_energy
from dlmbench.measure.protocol import RepetitionPlan, timed_repetition, traced_pass
from dlmbench.models.tokenizer import Codec, find
from dlmbench.types import (
    Cell,
    CommitOrder,
    EnergyPass,
    Generation,
    LanguageModel,
    MemoryPass,
    PromptBatch,
    Sample,
    Status,
    StepObserver,
    StoredGeneration,
    TextResult,
    Texts,
    TracedPass,
)


@dataclass(frozen=True)
class Repeat:
    """Run a cell's visit: warm-ups, then timed repetitions, batch after batch of `batches` in turn."""

    cell: Cell
    visit: RepetitionPlan
    round: int
    batches: tuple[PromptBatch, ...]


@dataclass(frozen=True)
class Inspect:
    """The passes of their own: inner times, memory, and energy where one repetition is too short to trust."""

    cell: Cell
    batch: PromptBatch


@dataclass(frozen=True)
class Complete:
    """Generate, untimed, for prompts that no timed repetition met."""

    cell: Cell
    batches: tuple[PromptBatch, ...]


@dataclass(frozen=True)
class Measure:
    """Score texts with a metric that needs the cell's model, or a model of its own."""

    metric: str
    texts: Texts


@dataclass(frozen=True)
class Failed:
    """A request that could not be carried out, and how the cell is to be recorded."""

    status: Status
    reason: str


@dataclass(frozen=True)
class Repetition:
    """One sample with the texts it made."""

    sample: Sample
    generations: tuple[StoredGeneration, ...]


Request = Repeat | Inspect | Complete | Measure
Reply = Repetition | TracedPass | MemoryPass | EnergyPass | CommitOrder | StoredGeneration | TextResult


@dataclass
class _Model:
    """What a worker holds: one loaded model, and what a cell of it must agree with."""

    setting: tuple[str, ...]
    language_model: LanguageModel
    codec: Codec | None


def _setting(cell: Cell) -> tuple[str, ...]:
    return (cell.model.key, cell.engine, cell.precision, cell.attention)


class _Server:
    """The worker's side: loads what a cell asks for and carries requests out."""

    def __init__(self, folder: Path | None, device: str) -> None:
        self.folder, self.device = folder, device
        self.clock: Clock = clock_for(device)
        self.meter = GpuMeter.of_device(device)
        self.model: _Model | None = None
        self._served: str | None = None  # the cell whose records the model may hold
        self._idle_power_w: dict[tuple[str, ...], float | None] = {}  # by the setting of the model that was there

    def answer(self, request: Request) -> Iterator[Reply]:
        """The replies to one request, each as soon as it is there."""
        if isinstance(request, Measure):
            yield from self._measure(request)
            return
        cell = request.cell
        model = self.load(cell)
        if self._served != cell.id:
            # What other cells recorded would take this one's memory; its own is kept, or a repetition would pay for it.
            model.language_model.forget()
            self._served = cell.id
        if isinstance(request, Repeat):
            yield from self._repeat(request, model)
        elif isinstance(request, Inspect):
            yield from self._inspect(request, model)
        else:
            for batch in request.batches:
                generation = self._generate(cell, model, batch)
                yield from _stored(cell, batch, generation, model)

    def _measure(self, request: Measure) -> Iterator[Reply]:
        module = registry.load("metrics", request.metric)
        texts = replace(request.texts, device=self.device)
        if "model" in module.NEEDS:
            texts = replace(texts, model=self.load(texts.cell).language_model)
        yield from module.score(texts)

    def load(self, cell: Cell) -> _Model:
        """The model as `cell` asks for it; the one that is there, if it fits."""
        if self.model is None or self.model.setting != _setting(cell):
            self.model = None  # the old one goes before the new one comes
            engine = registry.load("engines", cell.engine)
            loaded = engine.load(
                cell.model,
                self.folder,
                precision=cell.precision,
                attention=cell.attention,
                device=self.device,
                seed=cell.seed,
            )
            self.model = _Model(_setting(cell), loaded, find(self.folder) if self.folder else None)
        return self.model

    @staticmethod
    def _generate(
        cell: Cell, model: _Model, batch: PromptBatch, observer: StepObserver | None = None, trace: bool = False
    ) -> Generation:
        sampler: ModuleType = registry.load("samplers", cell.sampler)
        made: Generation = sampler.generate(
            model.language_model, batch, cell.new_tokens, dict(cell.knobs), cell.seed, observer, trace
        )
        return made

    def _repeat(self, request: Repeat, model: _Model) -> Iterator[Reply]:
        cell, visit = request.cell, request.visit
        todo = [(True, visit.first_warmup_index + i) for i in range(visit.warmups)]
        todo += [(False, visit.first_index + i) for i in range(visit.repetitions)]
        for is_warmup, index in todo:
            batch = request.batches[index % len(request.batches)]
            sample, generation = timed_repetition(
                lambda batch=batch: self._generate(cell, model, batch),  # type: ignore[misc]
                self.clock,
                cell_id=cell.id,
                index=index,
                is_warmup=is_warmup,
                round_index=request.round,
                meter=self.meter,
                useful_tokens=lambda made: _useful_tokens(cell, model, made),
                output_bytes=lambda made: _output_bytes(model, made),
            )
            yield Repetition(sample, () if is_warmup else tuple(_stored(cell, batch, generation, model)))

    def _inspect(self, request: Inspect, model: _Model) -> Iterator[Reply]:
        cell, batch = request.cell, request.batch
        is_autoregressive = registry.load("samplers", cell.sampler).PARADIGM == "autoregressive"
        made: list[Generation] = []

        def traced(observer: StepObserver) -> Generation:
            made.append(self._generate(cell, model, batch, observer, trace=True))
            return made[-1]

        # With a trace the steps are others than without: the first time may compile and record them.
        traced(lambda forwards: None)
        yield traced_pass(traced, self.clock, cell_id=cell.id, is_autoregressive=is_autoregressive)
        if (trace := made[0].trace) is not None:
            first = batch.prompts[0].index
            yield CommitOrder(cell.id, first, made[0].forwards, trace.committed_at_BG[0], trace.confidence_BG[0])
        model.language_model.forget()
        memory = measure_memory(cell.id, lambda: self._generate(cell, model, batch), self.device)
        yield replace(memory, idle_power_w=self._idle_power(model))
        energy = measure_energy(cell.id, lambda: self._generate(cell, model, batch), self.clock, self.meter)
        if energy is not None:
            yield energy

    def _idle_power(self, model: _Model) -> float | None:
        """Power of the device while nothing runs; measured once a model, while the other workers wait."""
        if model.setting not in self._idle_power_w:
            self._idle_power_w[model.setting] = self.meter.idle_power_w()
        return self._idle_power_w[model.setting]


def _useful_tokens(cell: Cell, model: _Model, made: Generation) -> int | None:
    """Tokens up to and with the first end of text, over all rows; None where an end says nothing.

    Random weights end by chance, and the embedded corpus has no end-of-story token.
    """
    end = model.language_model.architecture.eos_id
    if end is None or cell.model.weights == "random" or cell.prompts.startswith("tiny"):
        return None
    return sum(row.index(end) + 1 if end in row else len(row) for row in made.tokens_BG)


def _output_bytes(model: _Model, made: Generation) -> int | None:
    if model.codec is None:
        return None
    return sum(len(model.codec.decode(row).encode()) for row in made.tokens_BG)


def _stored(cell: Cell, batch: PromptBatch, made: Generation, model: _Model) -> Iterator[StoredGeneration]:
    for prompt, row in zip(batch.prompts, made.tokens_BG, strict=True):
        alone = Generation((row,), made.forwards, 0, 0)
        yield StoredGeneration(
            cell_id=cell.id,
            prompt_index=prompt.index,
            prompt_hash=batch.prompt_hash,
            output_ids=row,
            text=model.codec.decode(row) if model.codec else None,
            forwards=made.forwards,
            useful_tokens=_useful_tokens(cell, model, alone),
            output_bytes=_output_bytes(model, alone),
        )


def failure(error: Exception) -> Failed:
    """How an exception is recorded."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        peak = f"; peak allocated {torch.cuda.max_memory_allocated()} bytes" if torch.cuda.is_available() else ""
        return Failed("oom", f"out of memory{peak}")
    if isinstance(error, InvalidLogitsError):
        return Failed("invalid", str(error))
    return Failed("error", f"{type(error).__name__}: {error}" if not isinstance(error, BenchError) else str(error))


_READY = "ready"  # a worker's first word: libraries and first model are loaded


def _serve(connection: Connection, folder: Path | None, device: str, first: Cell | None) -> None:
    """The worker's main loop; ends when the parent hangs up, however it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()
    server = _Server(folder, device)
    try:
        if first is not None:
            with contextlib.suppress(Exception):  # it fails again, and is recorded, when the cell is run
                server.load(first)
        connection.send(_READY)
        while (request := connection.recv()) is not None:
            try:
                for reply in server.answer(request):
                    connection.send(reply)
            except Exception as error:  # whatever a cell does must not cost the others
                connection.send(failure(error))
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            connection.send(None)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(1)


class Worker:
    """The parent's handle on one model's process, started when it is first asked for something."""

    def __init__(self, folder: Path | None, device: str) -> None:
        self._folder, self._device = folder, device
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self.met: set[str] = set()
        self._is_ready = False

    def ask(self, request: Request) -> Iterator[Reply | Failed]:
        """Replies to `request` as they come; the last may be `Failed`."""
        self.start()
        assert self._connection is not None
        try:
            self.wait()
            self._connection.send(request)
            while (reply := self._connection.recv()) is not None:
                yield reply
        except (EOFError, BrokenPipeError, ConnectionResetError):
            code = self._join()
            how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
            advice = "; the system may have run out of memory" if code == -signal.SIGKILL else ""
            yield Failed("error", f"the model's process died: {how}{advice}")

    def start(self, first: Cell | None = None) -> None:
        """Start the process, if there is none, without waiting for it; it loads what the cell `first` asks for."""
        if self._process is not None:
            return
        if self._device == "cpu":
            # A thread that spins for long while it waits takes a core from the one it waits for: with another process
            # on a core, a forward of the embedded pair took 950 ms in place of 20. libgomp reads this with torch.
            os.environ.setdefault("GOMP_SPINCOUNT", "2000")
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._folder, self._device, first), daemon=True)
        self._process.start()
        theirs.close()
        self.met, self._is_ready = set(), False

    def wait(self) -> None:
        """Wait until the process is ready for requests."""
        if not self._is_ready:
            assert self._connection is not None
            assert self._connection.recv() == _READY
            self._is_ready = True

    def _join(self) -> int:
        assert self._process is not None
        self._process.join(timeout=10)
        code = self._process.exitcode
        self._process = self._connection = None
        return code if code is not None else -signal.SIGKILL

    def stop(self) -> None:
        """End the process; the next request starts a fresh one."""
        if self._process is None or self._connection is None:
            return
        try:
            self._connection.send(None)
            self._connection.close()
        except (BrokenPipeError, OSError):
            pass
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process = self._connection = None


class Pool:
    """One worker a model. Leaving the `with` block ends them all."""

    def __init__(self, folders: Mapping[str, Path | None], device: str) -> None:
        self.device = device
        self._workers = {key: Worker(folder, device) for key, folder in folders.items()}

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.stop()

    def start(self, first: Mapping[str, Cell]) -> None:
        """Start these models' workers and wait for all, so that none loads while another measures."""
        for key, cell in first.items():
            self._workers[key].start(cell)
        for key in first:
            self._workers[key].wait()

    def worker(self, key: str) -> Worker:
        """The worker of a model."""
        return self._workers[key]
