"""What is to be measured: models, cells, grids, experiments, plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, cast

from dlmbench.types._base import Knobs, KnobValue, Role, Weights, stable_hash


@dataclass(frozen=True)
class ModelSpec:
    """One model of an experiment: where it comes from and which part it plays."""

    key: str
    family: str
    source: str
    role: Role
    revision: str | None = None
    weights: Weights = "pretrained"


@dataclass(frozen=True)
class PromptSettings:
    """Where prompts come from: `source` is wikitext-103, sharegpt, file or tiny; `path` a local file or folder.

    count: exactly so many prompts; None for all that are long enough, at most `limit` of them where it is given.
    """

    source: str
    count: int | None
    path: str | None = None
    seed: int = 0
    chat: bool = False
    limit: int | None = None


@dataclass(frozen=True)
class ProtocolSettings:
    """How often a cell is repeated; see docs/protocol.md."""

    warmup: int = 3
    pilot: int = 5
    min_repeats: int = 10
    max_repeats: int = 100
    max_time_s: float = 300.0
    half_width: float = 0.01
    rounds: int = 2
    fresh_process_per_round: bool = False


@dataclass(frozen=True)
class Cell:
    """One point of the grid: everything that decides what a timed repetition does."""

    model: ModelSpec
    engine: str
    sampler: str
    knobs: Knobs
    batch_size: int
    prompt_tokens: int
    new_tokens: int
    precision: str
    attention: str
    seed: int
    prompts: str

    @cached_property
    def id(self) -> str:
        """Hash of the content: the same cell has the same id in every run and on every machine."""
        return stable_hash(asdict(self))

    @property
    def sequence_length(self) -> int:
        """Prompt and new tokens together (N)."""
        return self.prompt_tokens + self.new_tokens

    @property
    def steps(self) -> int | None:
        """Diffusion steps K, or None where the sampler has no such knob."""
        return cast("int | None", self.knob("steps"))

    def knob(self, name: str) -> KnobValue:
        """The value of a knob, None where this cell's sampler lacks it."""
        return dict(self.knobs).get(name)

    @cached_property
    def quality_key(self) -> str:
        """Equal for cells whose texts are equal: all but the batch size, for batch mates never change a row."""
        return stable_hash({k: v for k, v in asdict(self).items() if k != "batch_size"})

    @property
    def label(self) -> str:
        """The cell in a few words, for tables and messages: knobs that are off or only technical are left out."""
        off = (None, False, 0, "none")
        shown = ((k, v) for k, v in self.knobs if v not in off and k != "confidence_dtype")
        knobs = " ".join(f"{k}={v}" for k, v in shown)
        return f"{self.model.key} B={self.batch_size} P={self.prompt_tokens} G={self.new_tokens} {knobs}".strip()


@dataclass(frozen=True)
class LeftOut:
    """A combination of the grid that cannot be run, and why."""

    label: str
    reason: str


@dataclass(frozen=True)
class Prediction:
    """What the cost model expects of a cell; None where it has no opinion."""

    cell_id: str
    latency_s: float | None = None
    peak_bytes: int | None = None
    floor_s: float | None = None


@dataclass(frozen=True)
class Plan:
    """The cells of an experiment in a fixed order, those left out, and what is expected of them."""

    cells: tuple[Cell, ...]
    left_out: tuple[LeftOut, ...] = ()
    predictions: tuple[Prediction, ...] = ()

    @property
    def scored_cells(self) -> tuple[Cell, ...]:
        """One cell for each group of equal texts, the one of smallest batch: quality is measured there."""
        chosen: dict[str, Cell] = {}
        for cell in sorted(self.cells, key=lambda c: c.batch_size):
            chosen.setdefault(cell.quality_key, cell)
        return tuple(c for c in self.cells if chosen[c.quality_key] is c)


@dataclass(frozen=True)
class SamplerAxes:
    """A sampler of a grid and the values of each knob to sweep, in the order of the file."""

    sampler: str
    knobs: tuple[tuple[str, tuple[KnobValue, ...]], ...] = ()


@dataclass(frozen=True)
class Grid:
    """The axes of one grid; its cells are their product. `lengths` holds pairs (prompt tokens P, new tokens G)."""

    lengths: tuple[tuple[int, int], ...]
    batch_sizes: tuple[int, ...]
    samplers: tuple[SamplerAxes, ...]
    engines: tuple[str, ...]
    precision: str
    attention: str


@dataclass(frozen=True)
class MetricRequest:
    """A metric that is to be computed, its settings settled.

    folder: of the model that the metric itself loads. judge: that model's name, which stands beside every value.
    """

    name: str
    settings: Knobs = ()
    folder: str | None = None
    judge: str | None = None

    def setting(self, name: str) -> KnobValue:
        """The value of a setting."""
        return dict(self.settings)[name]


@dataclass(frozen=True)
class Experiment:
    """A whole study as its YAML file states it, after the command line's overrides."""

    name: str
    models: tuple[ModelSpec, ...]
    grids: tuple[Grid, ...]
    prompts: PromptSettings
    protocol: ProtocolSettings
    metrics: tuple[str, ...]
    metric_settings: Mapping[str, Any] = field(default_factory=dict)
    hardware: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    description: str = ""
