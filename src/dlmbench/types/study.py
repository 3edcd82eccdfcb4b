"""What is to be measured: models, cells, grids, experiments, plans."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

KnobValue = bool | int | float | str | None
Knobs = tuple[tuple[str, KnobValue], ...]
Role = Literal["baseline", "target"]
Weights = Literal["pretrained", "random"]
Status = Literal["ok", "oom", "invalid", "error", "skipped"]

T = TypeVar("T")


def stable_hash(value: object, length: int = 12) -> str:
    """A short hash of a JSON-serializable value: equal values have equal hashes on every machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def home_expanded(path: Path) -> Path:
    """A path whose leading ~ is the home folder; unchanged where there is no such user."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def from_mapping(kind: type[T], values: Any) -> T:
    """Build the dataclass `kind`, and those nested in it, from what a JSON file holds; unknown keys are ignored.

    JSON has no infinity, which is kept as text.

    Raises:
        ValueError: a field is missing, or a value has the wrong form.
    """
    from pydantic import ValidationError

    try:
        return cast(T, _adapter(cast(Any, kind)).validate_python(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}") from None


@cache
def _adapter(kind: type[Any]) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


@dataclass(frozen=True)
class ModelSpec:
    """One model of an experiment: where it comes from and which role it has.

    content: hash of the checkpoint (models/identity.py), None until its files have been read.
    """

    key: str
    family: str
    source: str
    role: Role
    revision: str | None = None
    weights: Weights = "pretrained"
    content: str | None = None

    @property
    def identity(self) -> tuple[str, Weights, str]:
        """Equal for models that compute the same, whatever their key, role and folder.

        As long as the content is unknown, source and revision are used instead.
        """
        return self.family, self.weights, self.content or f"{self.source}@{self.revision or ''}"


@dataclass(frozen=True)
class PromptSettings:
    """Where prompts come from: `source` is the name of a prompt source, `path` a local file or folder.

    count: exactly this many prompts; None for all that are long enough, at most `limit` if that is set.
    """

    source: str
    count: int | None
    path: str | None = None
    seed: int = 0
    chat: bool = False
    limit: int | None = None


@dataclass(frozen=True)
class ProtocolSettings:
    """How a cell is measured; see docs/protocol.md. processes: fresh ones per cell. rounds: visits in each."""

    warmup: int = 3
    pilot: int = 5
    min_repeats: int = 10
    max_repeats: int = 100
    max_time_s: float = 300.0
    half_width: float = 0.01
    rounds: int = 2
    processes: int = 3


@dataclass(frozen=True)
class Cell:
    """One point of the grid: everything that decides what a timed repetition does.

    recorded_id: the id of a cell that was read from a run folder of schema version 1; None for all others.
    """

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
    recorded_id: str | None = None

    @cached_property
    def id(self) -> str:
        """Hash of what is measured: equal in every run and on every machine, whatever the model's key, role and folder.

        The model enters by its `identity`. Every other field enters as it is.
        """
        return self.recorded_id or stable_hash(self._measured())

    @cached_property
    def shape_key(self) -> str:
        """Equal for cells that differ only in batch size."""
        return stable_hash({name: value for name, value in self._measured().items() if name != "batch_size"})

    @property
    def texts_depend_on_batch(self) -> bool:
        """Whether the other rows of a batch can change a row's text.

        Not in float32, as measured on the CPU. In the 16-bit types kernels round differently at another batch size, and
        texts differ (docs/reliability.md).
        """
        return self.precision != "float32"

    @cached_property
    def quality_key(self) -> str:
        """Equal for cells that generate the same texts, which are generated and scored once."""
        return self.id if self.texts_depend_on_batch else self.shape_key

    def _measured(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "recorded_id"}
        return values | {"model": self.model.identity}

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

    @property
    def label(self) -> str:
        """A short description for tables and messages, without knobs that are off or only technical."""
        off = (None, False, 0, "none")
        shown = ((k, v) for k, v in self.knobs if v not in off and k != "confidence_dtype")
        knobs = " ".join(f"{k}={v}" for k, v in shown)
        return f"{self.model.key} B={self.batch_size} P={self.prompt_tokens} G={self.new_tokens} {knobs}".strip()


@dataclass(frozen=True)
class LeftOut:
    """A combination of the grid that cannot be run, with the reason."""

    label: str
    reason: str


@dataclass(frozen=True)
class Prediction:
    """What the cost model predicts for a cell; None where it has no prediction."""

    cell_id: str
    latency_s: float | None = None
    peak_bytes: int | None = None
    floor_s: float | None = None


@dataclass(frozen=True)
class Plan:
    """The cells of an experiment in a fixed order, the combinations left out, and predictions."""

    cells: tuple[Cell, ...]
    left_out: tuple[LeftOut, ...] = ()
    predictions: tuple[Prediction, ...] = ()

    @property
    def scored_cells(self) -> tuple[Cell, ...]:
        """The cell of the smallest batch size for each `quality_key`: quality is measured there."""
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
    """The axes of one grid, whose product are its cells. `lengths`: pairs (prompt tokens P, new tokens G)."""

    lengths: tuple[tuple[int, int], ...]
    batch_sizes: tuple[int, ...]
    samplers: tuple[SamplerAxes, ...]
    engines: tuple[str, ...]
    precision: str
    attention: str


@dataclass(frozen=True)
class MetricRequest:
    """A metric to compute, with all its settings resolved.

    folder: of the model that the metric itself loads. judge: that model's name, recorded with every value.
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
    """A whole study as its YAML file describes it, after the overrides of the command line."""

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
    gpus: int | Literal["all"] = 1
    published: str | None = None
