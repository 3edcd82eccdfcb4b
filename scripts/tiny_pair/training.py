"""The training loop, a function of the settings and the step number, so that it can stop and resume at any step.

Objectives, in nats per word. AR: cross-entropy of every word given the words before it. LLaDA: a masking rate t,
uniform on (0, 1) and stratified over the batch; every word masked with probability t; cross-entropy of the masked
words, weighted by 1 / t, over the number of words that could have been masked. Half of the sequences keep their first
words (a prompt) unmasked. The low-noise-first curriculum caps t at 0.3 for the first quarter of the steps and at 0.6
until two fifths.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlmbench.tiny.vocabulary import MASK_TOKEN_ID
from tiny_pair.corpus import StoryReader
from tiny_pair.model import Shape, Transformer, Weights, initial_weights
from tiny_pair.optimizer import Optimizer

_PROMPT_SHARE = 0.5
_SHORTEST_PART = 32  # words in the shortest prompt, and in the shortest rest
_CURRICULUM = ((0.25, 0.3), (0.4, 0.6))  # until this share of the steps, rates up to this
_LOWEST_RATE = 1e-3


@dataclass(frozen=True)
class Run:
    """The settings that determine the result of a run."""

    paradigm: str  # "ar" or "llada"
    steps: int
    tokens_per_step: int
    curriculum: bool
    seed: int
    optimizer: str  # "muon" or "adamw"
    matrix_rate: float
    matrix_decay: float
    other_rate: float
    lengths: tuple[int, ...]  # used in turn
    shape: Shape = Shape()  # noqa: RUF009 - frozen

    def stories_before(self, step: int) -> int:
        """How many stories the steps before `step` have used."""
        taken = [self.tokens_per_step // length for length in self.lengths]
        rounds, rest = divmod(step, len(taken))
        return rounds * sum(taken) + sum(taken[:rest])


def masked_batch(tokens_BL: Tensor, largest_rate: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs with masks and the weight of each position's cross-entropy, both (B, L)."""
    B, L = tokens_BL.shape
    device = tokens_BL.device

    def draw(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator, device=device)

    stratified = (torch.randperm(B, generator=generator, device=device) + draw(1)) / B * largest_rate
    rate = (_LOWEST_RATE + (1 - _LOWEST_RATE) * stratified)[:, None]
    prompt = _SHORTEST_PART + draw(B, 1) * (L - 2 * _SHORTEST_PART)
    prompt = torch.where(draw(B, 1) < _PROMPT_SHARE, prompt.floor(), 0.0)
    maskable = torch.arange(L, device=device) >= prompt
    masked = maskable & (draw(B, L) < rate)
    return tokens_BL.masked_fill(masked, MASK_TOKEN_ID), masked / rate / maskable.sum()


def largest_rate(run: Run, step: int) -> float:
    """The cap on the masking rate at `step`."""
    if not run.curriculum:
        return 1.0
    return next((rate for until, rate in _CURRICULUM if step < until * run.steps), 1.0)


class Gradients:
    """Loss and gradients (in `.grad`) of a batch. On a GPU one CUDA graph per shape is captured and replayed."""

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self._graphs: dict[torch.Size, tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], Tensor]] = {}
        for tensor in model.weights.values():
            tensor.grad = torch.zeros_like(tensor)

    def _compute(self, *batch: Tensor) -> Tensor:
        torch._foreach_zero_([tensor.grad for tensor in self._model.weights.values()])
        loss = self._model.loss(*batch)
        loss.backward()
        return loss.detach()

    def __call__(self, *batch: Tensor) -> Tensor:
        """The loss of (inputs, targets, weights)."""
        if not batch[0].is_cuda:
            return self._compute(*batch)
        shape = batch[0].shape
        if shape not in self._graphs:
            self._graphs[shape] = self._capture(batch)
        graph, inputs, loss = self._graphs[shape]
        for static, tensor in zip(inputs, batch, strict=True):
            static.copy_(tensor)
        graph.replay()
        return loss

    def _capture(self, batch: tuple[Tensor, ...]) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], Tensor]:
        inputs = tuple(tensor.clone() for tensor in batch)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # compile and allocate library workspaces outside the graph
                self._compute(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = self._compute(*inputs)
        return graph, inputs, loss


@dataclass
class Progress:
    """The progress of a resumable run."""

    step: int = 0
    words: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] | None = None


def _batch(run: Run, step: int, reader: StoryReader, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    length = run.lengths[step % len(run.lengths)]
    tokens_BL = reader.stories(run.stories_before(step), run.tokens_per_step // length, length)
    if run.paradigm == "ar":
        inputs, targets = tokens_BL[:, :-1].contiguous(), tokens_BL[:, 1:].contiguous()
        return inputs, targets, torch.full(targets.shape, 1.0 / targets.numel(), device=targets.device)
    generator.manual_seed(run.seed * 1_000_003 + step)
    inputs, weights = masked_batch(tokens_BL, largest_rate(run, step), generator)
    return inputs, tokens_BL, weights


def _save(directory: Path, run: Run, weights: Weights, optimizer: Optimizer, progress: Progress) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    torch.save({name: tensor.detach().cpu() for name, tensor in weights.items()}, directory / "weights.pt")
    velocities = optimizer.muon.velocities if optimizer.muon else []
    torch.save({"muon": velocities}, directory / "momentum.pt")
    torch.save({"adam": optimizer.adam.state_dict()}, directory / "adam.pt")
    (directory / "progress.json").write_text(json.dumps({"run": asdict(run), "progress": asdict(progress)}, indent=1))


def _load(path: Path, device: torch.device) -> dict[str, Any]:
    return torch.load(path, map_location=device, weights_only=True)


def load_weights(directory: Path, device: torch.device) -> Weights:
    """The fp32 weights of a saved run."""
    return _load(directory / "weights.pt", device)


def _resume(directory: Path, run: Run, optimizer: Optimizer, device: torch.device) -> Progress:
    saved = json.loads((directory / "progress.json").read_text())
    if saved["run"] != json.loads(json.dumps(asdict(run))):
        raise SystemExit(f"{directory} holds another run: {saved['run']}")
    if optimizer.muon:
        optimizer.muon.velocities = _load(directory / "momentum.pt", device)["muon"]
    optimizer.adam.load_state_dict(_load(directory / "adam.pt", device)["adam"])
    return Progress(**saved["progress"])


def train(
    run: Run, reader: StoryReader, directory: Path, device: torch.device, stop_after: float,
    validate: Callable[[Transformer], float], validate_every: int, log: Callable[[str], None],
) -> bool:  # fmt: skip
    """Train to the last step, or for about `stop_after` seconds, and save. Returns whether the run is complete."""
    began = time.monotonic()
    # cuDNN's attention backward returns NaN on this GPU family where L mod 128 = 64 and the log-sum-exp of a row is
    # below -88 (pytorch issue 196678); it broke an earlier training run. The flash kernel is as fast here.
    torch.backends.cuda.enable_cudnn_sdp(False)
    resuming = (directory / "progress.json").exists()
    weights = load_weights(directory, device) if resuming else initial_weights(run.shape, run.seed)
    weights = {name: tensor.to(device).requires_grad_() for name, tensor in weights.items()}
    use_muon = run.optimizer == "muon"
    optimizer = Optimizer(weights, run.steps, use_muon, run.matrix_rate, run.matrix_decay, run.other_rate)
    progress = _resume(directory, run, optimizer, device) if resuming else Progress(history=[])
    seconds_before = progress.seconds
    on_gpu = device.type == "cuda"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    model = Transformer(run.shape, weights, run.paradigm == "ar", dtype, compiled=on_gpu)
    gradients = Gradients(model)
    generator = torch.Generator(device)
    running, counted = torch.zeros((), device=device), 0
    while progress.step < run.steps:
        batch = _batch(run, progress.step, reader, generator)
        running += gradients(*batch)
        optimizer.step(progress.step)
        counted += 1
        progress.step += 1
        progress.words += run.tokens_per_step
        if progress.step % 50 == 0:
            loss = running.item() / counted  # waits for the GPU, so the time below is right
            if not math.isfinite(loss):
                raise SystemExit(f"{directory}: the loss is {loss} at step {progress.step}; nothing was saved")
            elapsed = time.monotonic() - began
            progress.seconds = seconds_before + elapsed
            if progress.step % validate_every == 0 or progress.step == run.steps:
                bound = validate(Transformer(run.shape, weights, run.paradigm == "ar", dtype))
                record = {"step": progress.step, "words": progress.words, "loss": loss, "validation": bound}
                progress.history = [*(progress.history or []), record]
                log(f"{progress.seconds:6.0f} s  {json.dumps(record)}")
                running, counted = torch.zeros((), device=device), 0
            if elapsed > stop_after:
                break
    progress.seconds = seconds_before + time.monotonic() - began
    _save(directory, run, weights, optimizer, progress)
    return progress.step >= run.steps
