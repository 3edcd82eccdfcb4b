"""The times of the study: measured, on the line through the step counts measured, or predicted; and what they show.

Each engine has a run of `make study-run`; an older one on the same device helps to fit the cost model. The tables here
need no quality: times at fixed steps, energy and memory, and the same on other devices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from tables import markdown

from dlmbench.analysis.break_even import RISING_STEP
from dlmbench.analysis.published import PublishedScore
from dlmbench.analysis.replication import latencies
from dlmbench.analysis.results import CellSummary, Study
from dlmbench.analysis.study import analyse
from dlmbench.experiment import load, plan
from dlmbench.models.loading import architectures
from dlmbench.results import read_run
from dlmbench.roofline import calibrate, corrected, memory, models_8b, operators
from dlmbench.roofline.hardware import Hardware, find, of_device
from dlmbench.roofline.models_8b import LLADA_8B, LLAMA_8B
from dlmbench.types import Architecture, Cell

STUDY = Path(__file__).parents[1] / "docs/study"
CONFIG = STUDY.parents[1] / "config/experiments_study.yaml"
RUNS = {
    "native": (STUDY / "tasks", STUDY / "h200-native"),
    "hf": (STUDY / "tasks-hf", STUDY / "h200-random"),
}
KINDS = ("measured", "extrapolated", "predicted")
BATCH_SIZES, NEW_TOKENS = (1, 8, 32), 256
# Prompt tokens of GSM8K and of HumanEval, whose prompts are the longest and the shortest.
LONGEST, SHORTEST = 894, 132
ELSEWHERE = ("H200", "H100 SXM", "A100 80GB SXM", "RTX 4090")


@dataclass(frozen=True)
class Seconds:
    """Seconds of one generation with a 95% interval.

    kind: one of KINDS. cells: those behind it, each as "run folder/cell id"; of a prediction only the runs, by whose
    cells the cost model is fitted.
    """

    value: float
    low: float
    high: float
    kind: str
    cells: tuple[str, ...] = ()

    def over(self, other: Seconds) -> Seconds:
        """The ratio of two times, between the ends of both intervals, of the weaker kind and from the cells of both."""
        kind, cells = max(self.kind, other.kind, key=KINDS.index), union(self.cells, other.cells)
        return Seconds(self.value / other.value, self.low / other.high, self.high / other.low, kind, cells)


def union(*cells: Iterable[str]) -> tuple[str, ...]:
    """All of them, each once."""
    return tuple(dict.fromkeys(chain.from_iterable(cells)))


def on_line(points: Mapping[int, Seconds], steps: float, error: float) -> Seconds:
    """Seconds of `steps` on the line through the fewest and the most steps measured.

    Its ends are those of the lines through the ends of both intervals, beyond them through opposite ends, and `error`
    more, the share by which such lines were seen to miss.
    """
    first, last = min(points), max(points)
    share = (steps - first) / (last - first)

    def at(start: float, end: float) -> float:
        return start + share * (end - start)

    a, b = points[first], points[last]
    is_between = 0 <= share <= 1
    ends = sorted([at(a.low, b.low if is_between else b.high), at(a.high, b.high if is_between else b.low)])
    cells = union(a.cells, b.cells)
    return Seconds(at(a.value, b.value), ends[0] * (1 - error), ends[1] * (1 + error), "extrapolated", cells)


def line_error(lines: Iterable[Mapping[int, Seconds]]) -> float | None:
    """The largest share by which the line through a curve's first two step counts misses its last one.

    Only curves of three or more step counts say something; None without any.
    """
    missed = []
    for points in lines:
        if len(points) > 2:
            first, second, last = (sorted(points)[i] for i in (0, 1, -1))
            through = {k: points[k] for k in (first, second)}
            missed.append(abs(on_line(through, last, 0).value / points[last].value - 1))
    return max(missed, default=None)


class Times:
    """Times of the cells of CONFIG with one engine, on the device of its runs."""

    def __init__(self, engine: str) -> None:
        self.runs = [read_run(folder) for folder in RUNS[engine]]
        devices = {of_device(run.environment.device) for run in self.runs if run.environment}
        assert len(devices) == 1, f"{engine}: runs of one known device, not {devices}"
        (device,) = devices
        assert device is not None
        self.device, self.engine = device, engine
        cells = [c for c in plan.expand(load.load(CONFIG)).cells if c.engine == engine]
        self.cells = {self.key(cell): cell for cell in cells}
        self.known, _ = architectures(dict.fromkeys(c.model for c in cells))
        self.measured: dict[tuple[object, ...], dict[int, Seconds]] = {}
        rows: dict[str, list[corrected.MeasuredCell]] = {}
        for folder, run in zip(RUNS[engine], self.runs, strict=True):
            found, earlier = latencies(run.results, run.selfcheck), set(self.measured)
            for cell in (r.cell for r in run.results if r.cell.id in found):
                *key, _ = self.key(cell)
                if tuple(key) not in earlier:  # a line is of one run
                    interval = found[cell.id].interval()
                    origin = (f"{folder.name}/{cell.id}",)
                    seconds = Seconds(interval.value, interval.low, interval.high, "measured", origin)
                    self.measured.setdefault(tuple(key), {})[cell.steps or 0] = seconds
            for label, measured in calibrate.measured_cells(run.results, self.known, device).items():
                rows.setdefault(label, []).extend(measured)
        self.fits = {label: calibrate.calibrate(measured, label) for label, measured in rows.items()}

    @cached_property
    def study(self) -> Study:
        """The study's own run, analysed."""
        return analyse(self.runs[0])

    @cached_property
    def line_error(self) -> float:
        """The largest bend seen with any engine, and at least one that break-evens let pass: few curves show more."""
        curves_seen = (curve for engine in RUNS for curve in times_of(engine).measured.values())
        return max(line_error(curves_seen) or 0.0, RISING_STEP)

    @staticmethod
    def key(cell: Cell) -> tuple[object, ...]:
        """What tells the cells of CONFIG apart, the steps last."""
        block = cell.knob("block_length") if cell.steps else None
        shape = cell.batch_size, cell.prompt_tokens, cell.new_tokens
        return (cell.model.role, *shape, block, cell.knob("cache") or "none", cell.steps)

    def baseline(self, batch_size: int, row: PublishedScore, new_tokens: int | None = None) -> Seconds | None:
        """LLaMA's, for as many new tokens as LLaDA generates in a published row; None where CONFIG has no such cell."""
        return self.of("baseline", batch_size, row.prompt_tokens, new_tokens or row.new_tokens, None, "none", None)

    def target(self, batch_size: int, row: PublishedScore) -> Seconds | None:
        """LLaDA's in the setting of a published row; of an adaptive rule for the forwards that were published."""
        shape, forwards = (batch_size, row.prompt_tokens, row.new_tokens), None if row.steps else row.nfe
        # Without a cache all forwards are equal; with one, no published row says how many there are.
        if forwards and row.cache != "none":
            return None
        return self.of("target", *shape, row.block_length, row.cache, row.steps or row.new_tokens, forwards=forwards)

    def of(self, *key: object, forwards: float | None = None) -> Seconds | None:
        """Of a cell by its `key`, or of so many `forwards`; None for a cell that CONFIG has not."""
        cell = self.cells.get(key)
        if cell is None:
            return None
        points, steps = self.measured.get(key[:-1], {}), forwards or cell.steps or 0
        if forwards is None and steps in points:
            return points[int(steps)]
        if len(points) > 1:
            return on_line(points, steps, self.line_error)
        scale = 1.0 if forwards is None else forwards / (cell.steps or 1)
        whole = self.predicted(cell, self.device)
        return replace(whole, value=scale * whole.value, low=scale * whole.low, high=scale * whole.high)

    def predicted(self, cell: Cell, device: Hardware) -> Seconds:
        """By the cost model, with a 95% interval from cells left out of its fit."""
        architecture: Architecture = self.known[cell.model.key]
        estimate = calibrate.estimate(self.fits[corrected.label_of(cell)], cell, architecture, device)
        assert estimate is not None
        runs = tuple(folder.name for folder in RUNS[self.engine])
        return Seconds(estimate.value_s, estimate.low_s, estimate.high_s, "predicted", runs)


@cache
def times_of(engine: str) -> Times:
    """The times of the committed runs, read and fitted once."""
    return Times(engine)


def in_words(ratio: Seconds) -> str:
    """A ratio of speeds: "1.6x slower (1.4 to 1.9)", or "1.1x slower to 1.3x faster" where it may be either."""
    if ratio.low < 1 < ratio.high:
        return f"{_digits(1 / ratio.low)}x slower to {_digits(ratio.high)}x faster"
    if ratio.value >= 1:
        return f"{_digits(ratio.value)}x faster ({_digits(ratio.low)} to {_digits(ratio.high)})"
    return f"{_digits(1 / ratio.value)}x slower ({_digits(1 / ratio.high)} to {_digits(1 / ratio.low)})"


def _digits(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def at_fixed_steps() -> str:
    """LLaDA's speed in LLaMA's at fixed step counts, whatever the quality there: caches, and equal lengths."""
    settings = [(LONGEST, NEW_TOKENS, None, "none", k) for k in (64, 128, 256)]
    settings += [(LONGEST, NEW_TOKENS, 32, kind, k) for kind in ("prefix", "dual") for k in (64, 128, 256)]
    settings += [(256, 256, None, "none", k) for k in (64, 256)]
    lines = []
    for engine, (prompt, new, block, kind, steps) in ((e, s) for e in RUNS for s in settings):
        times, row = times_of(engine), []
        for batch_size in BATCH_SIZES:
            baseline = times.of("baseline", batch_size, prompt, new, None, "none", None)
            target = times.of("target", batch_size, prompt, new, block or new, kind, steps)
            assert baseline is not None
            assert target is not None
            row.append(baseline.over(target))
        words = [f"{in_words(r)}, {r.kind}" for r in row]
        lines.append((engine, f"{prompt}+{new}", block or new, kind, steps, *words))
    return markdown(("engine", "prompt + new", "block", "cache", "K", *(f"B={b}" for b in BATCH_SIZES)), lines)


def resources() -> str:
    """Time, energy, power, memory and share of the floor, of each setting at the most steps measured."""
    lines = []
    for engine in RUNS:
        times = times_of(engine)
        settings: dict[tuple[object, ...], CellSummary] = {}
        for summary in sorted(times.study.cells, key=lambda s: s.cell.steps or 0):
            *setting, _ = times.key(summary.cell)
            settings[tuple(setting)] = summary
        for summary in sorted(settings.values(), key=lambda s: (s.cell.prompt_tokens, s.cell.batch_size)):
            cell, energy, seconds, peak = summary.cell, summary.energy, summary.seconds, summary.memory
            if cell.prompt_tokens not in (LONGEST, SHORTEST) or cell.new_tokens != NEW_TOKENS:
                continue
            architecture = times.known[cell.model.key]
            weight_bytes = architecture.parameters * operators.ELEMENT_BYTES[cell.precision]
            floor = corrected.floor_s(cell, architecture, times.device)
            assert energy is not None
            assert seconds is not None
            assert peak is not None
            assert floor is not None
            latency, forwards = seconds.interval().value, cell.steps or NEW_TOKENS
            lines.append(
                (
                    *(engine, "LLaDA" if cell.steps else "LLaMA", cell.batch_size, cell.prompt_tokens),
                    *(cell.knob("block_length") or "", cell.knob("cache") or "", forwards),
                    *(f"{latency:.3g}", "" if summary.first_text_s is None else f"{summary.first_text_s:.2g}"),
                    *(f"{energy.value / forwards:.3g}", f"{energy.value / latency:.0f}"),
                    f"{(peak.bytes - weight_bytes) / 2**30:.2f}",
                    f"{100 * floor / latency:.0f}%",
                )
            )
    header = ("engine", "model", "B", "prompt", "block", "cache", "forwards", "s", "first text", "J a forward", "W")
    return markdown((*header, "GiB over weights, reserved", "of floor"), lines)


def memory_law() -> str:
    """GiB above the weights by length, half of it a prompt: predicted, with each kernel of attention and each cache."""
    settings: list[tuple[str, Architecture, dict[str, Any]]] = [
        ("LLaMA", LLAMA_8B, {}),
        ("LLaDA", LLADA_8B, {}),
        ("LLaDA, dual cache", LLADA_8B, {"cache": "dual", "block_length": 32}),
        ("LLaDA, math attention", LLADA_8B, {"attention": "math"}),
    ]
    lines = []
    for batch_size, (name, architecture, chosen) in ((b, s) for b in (1, 32) for s in settings):
        row = []
        for length in (128, 512, 1024, 2048):
            shape = (batch_size, length // 2, length // 2)
            split = memory.split(
                models_8b.cell(architecture, "native", shape, steps=length // 2, **chosen), architecture
            )
            assert split is not None
            row.append(f"{(split.total - split.weights) / 2**30:.2f}")
        lines.append((batch_size, name, *row))
    return markdown(("B", "GiB over weights, allocated", *(f"N={n}" for n in (128, 512, 1024, 2048))), lines)


def elsewhere() -> str:
    """LLaDA's speed in LLaMA's at K = 64 without a cache, predicted for other devices by the fits to this one."""
    lines = []
    for device, times in ((find(name), times_of(engine)) for name in ELSEWHERE for engine in RUNS):
        words = []
        for batch_size in BATCH_SIZES:
            shape = (batch_size, LONGEST, NEW_TOKENS)
            keys = (("baseline", *shape, None, "none", None), ("target", *shape, NEW_TOKENS, "none", 64))
            cells = [times.cells[key] for key in keys]
            splits = [memory.split(cell, times.known[cell.model.key]) for cell in cells]
            if any(split is not None and split.total > device.memory_bytes for split in splits):
                words.append("does not fit")
                continue
            baseline, target = (times.predicted(cell, device) for cell in cells)
            ratio = baseline.over(target)
            words.append(f"{ratio.value:.2g} ({ratio.low:.2g} to {ratio.high:.2g})")
        lines.append((device.name, times.engine, *words))
    return markdown(("device", "engine", *(f"B={b}" for b in BATCH_SIZES)), lines)
