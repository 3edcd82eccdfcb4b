"""Every noun of the project, as frozen records with units in their names.

Standard library only. None means unknown or not measured; 0 means zero. Shape legend used across the project:
B rows of a batch, P prompt tokens, G new (generated) tokens, N = P + G canvas, Q positions given to one forward,
D hidden width, V vocabulary, K diffusion steps.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast

if TYPE_CHECKING:
    import torch

SCHEMA_VERSION = 1

KnobValue = bool | int | float | str | None
Knobs = tuple[tuple[str, KnobValue], ...]
Role = Literal["baseline", "target"]
Weights = Literal["pretrained", "random"]
Status = Literal["ok", "oom", "invalid", "error"]

T = TypeVar("T")


def stable_hash(value: object, length: int = 12) -> str:
    """A short hash of a JSON-able value: equal content, equal hash, on every machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def from_mapping(kind: type[T], values: Mapping[str, Any]) -> T:
    """Build the flat record `kind` from a mapping read from a file; unknown keys are left for newer readers."""
    known = {f.name for f in fields(cast(Any, kind))}
    return kind(**{k: v for k, v in values.items() if k in known})


# ---------------------------------------------------------------- what is to be measured


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

    @property
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

    @property
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


# ---------------------------------------------------------------- prompts and generations


@dataclass(frozen=True)
class Prompt:
    """A prompt in one model's ids, its place in the prompt set, and the true continuation where it is known.

    scored: which of the reference tokens a likelihood counts, first to last (exclusive); None for all. scored_tokens:
    how many tokens its nats are divided by, where that is not their own number (tokenizers differ; see prompts).
    """

    index: int
    ids: tuple[int, ...]
    text: str | None = None
    reference_ids: tuple[int, ...] | None = None
    reference_text: str | None = None
    scored: tuple[int, int] | None = None
    scored_tokens: int | None = None


@dataclass(frozen=True)
class PromptBatch:
    """Prompts of one batch. Ragged ones are padded on the left by the sampler; `prompt_hash` names the whole set."""

    prompts: tuple[Prompt, ...]
    prompt_hash: str

    @property
    def indices(self) -> tuple[int, ...]:
        """The prompts' places in the set: what random draws are keyed by."""
        return tuple(p.index for p in self.prompts)


@dataclass(frozen=True)
class Trace:
    """What a traced generation saw: rows B, new tokens G.

    committed_at_BG: the forward (counted from 1) at which each position became final; confidence_BG: with what
    confidence. block_ends: for each block, the number of forwards after which it was final.
    """

    committed_at_BG: tuple[tuple[int, ...], ...]
    confidence_BG: tuple[tuple[float, ...], ...]
    block_ends: tuple[int, ...]


@dataclass(frozen=True)
class Generation:
    """What a sampler made of one batch, with the work it took, counted while it ran.

    tokens_BG: the new ids only. positions: token positions computed, over all rows (twice with CFG).
    attention_pairs: query-key pairs. wasted_positions: positions computed for rows that were already done.
    """

    tokens_BG: tuple[tuple[int, ...], ...]
    forwards: int
    positions: int
    attention_pairs: int
    wasted_positions: int = 0
    trace: Trace | None = None

    @property
    def new_tokens(self) -> int:
        """New tokens over all rows."""
        return sum(len(row) for row in self.tokens_BG)


@dataclass(frozen=True)
class Likelihood:
    """log p of each reference token, in nats (rows B, tokens G), and the forwards it took."""

    log_prob_BG: tuple[tuple[float, ...], ...]
    forwards: int


# All prompts of each (model key, prompt tokens, new tokens), in that model's ids.
PromptSets = Mapping[tuple[str, int, int], PromptBatch]


@dataclass(frozen=True)
class StoredGeneration:
    """One generated text, kept so that a metric can be added later without generating again."""

    cell_id: str
    prompt_index: int
    prompt_hash: str
    output_ids: tuple[int, ...]
    text: str | None
    forwards: int
    useful_tokens: int | None
    output_bytes: int | None


# ---------------------------------------------------------------- measurements


@dataclass(frozen=True)
class Sample:
    """One repetition of a cell. (cell_id, index, is_warmup) is unique in a folder; warm-ups count apart.

    throttle: what held the GPU's clock back, "" when nothing did. other_processes: foreign ones on the same GPU.
    """

    cell_id: str
    index: int
    is_warmup: bool
    round: int
    process_id: int
    started_at: str
    clock: str
    latency_s: float
    wall_s: float
    new_tokens: int
    useful_tokens: int | None
    output_bytes: int | None
    forwards: int
    positions: int
    attention_pairs: int
    wasted_positions: int
    energy_j: float | None = None
    power_w: float | None = None
    sm_clock_mhz: int | None = None
    temperature_c: int | None = None
    throttle: str | None = None
    other_processes: int | None = None


@dataclass(frozen=True)
class TracedPass:
    """Times inside one generation, from a pass of its own. Autoregressive fields are None for diffusion and back."""

    cell_id: str
    process_id: int
    first_token_s: float | None
    prefill_s: float | None
    inter_token_s: float | None
    inter_token_p50_s: float | None
    inter_token_p95_s: float | None
    first_block_s: float | None
    step_p50_s: float | None


@dataclass(frozen=True)
class CommitOrder:
    """When each new position of one prompt became final, by the forward (from 1), and with what confidence."""

    cell_id: str
    prompt_index: int
    forwards: int
    committed_at: tuple[int, ...]
    confidence: tuple[float, ...]


@dataclass(frozen=True)
class MemoryPass:
    """Peak memory of one generation, from a pass of its own; `source` says who counted (cuda | rss).

    peak_allocated_bytes and peak_reserved_bytes are torch's CUDA allocator's; device_bytes is the process's share by
    NVML; peak_process_bytes is the host's resident peak, which on a CPU is all there is.
    """

    cell_id: str
    process_id: int
    source: str
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    device_bytes: int | None = None
    peak_process_bytes: int | None = None
    idle_power_w: float | None = None


@dataclass(frozen=True)
class EnergyPass:
    """Energy of one generation too short for a single reading, from `repetitions` of them in a row over `region_s`."""

    cell_id: str
    process_id: int
    repetitions: int
    region_s: float
    energy_j: float


@dataclass(frozen=True)
class CellStatus:
    """How a cell ended. A cell never vanishes: what failed is a record with its reason."""

    cell_id: str
    status: Status
    reason: str = ""


@dataclass(frozen=True)
class CellResult:
    """All that is known of one cell."""

    cell: Cell
    status: Status | None
    reason: str
    samples: tuple[Sample, ...]
    traced: TracedPass | None
    memory: MemoryPass | None
    environment_id: str
    schema_version: int = SCHEMA_VERSION
    order: CommitOrder | None = None
    energy: EnergyPass | None = None

    @property
    def timed(self) -> tuple[Sample, ...]:
        """The repetitions that count: all but the warm-ups."""
        return tuple(s for s in self.samples if not s.is_warmup)


@dataclass(frozen=True)
class Environment:
    """Where a run took place. COMPARABLE names the fields that must agree within one folder."""

    device: str
    device_count: int
    driver: str | None
    cuda: str | None
    python: str
    torch: str
    transformers: str
    cpu: str
    cpu_threads: int
    memory_bytes: int
    power_cap_w: float | None
    host: str
    platform: str
    dlmbench: str
    git_commit: str | None

    COMPARABLE = ("device", "driver", "torch", "transformers", "cpu_threads")

    @property
    def id(self) -> str:
        """Equal for environments whose measurements may be compared."""
        return stable_hash({name: getattr(self, name) for name in self.COMPARABLE})


# ---------------------------------------------------------------- quality and findings


@dataclass(frozen=True)
class TextScore:
    """A metric's value of one text as total / weight, so that aggregates can be resampled.

    The aggregate over texts is sum(total) / sum(weight): nats over tokens, violations over slots, and so on.
    """

    cell_id: str
    metric: str
    prompt_index: int
    total: float
    weight: float


@dataclass(frozen=True)
class Score:
    """A metric aggregated over the texts of a cell, with the interval of a bootstrap over prompts."""

    cell_id: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    stderr: float | None
    n: int
    unit: str
    higher_is_better: bool
    judge: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Finding:
    """Something a reader of the results should know, with advice."""

    code: str
    severity: Literal["info", "warning", "error"]
    cell_id: str | None
    message: str
    hint: str


@dataclass(frozen=True)
class Run:
    """Everything a run folder says, read back from its files alone."""

    folder: str
    name: str
    environment: Environment | None
    cells: tuple[Cell, ...]
    left_out: tuple[LeftOut, ...]
    results: tuple[CellResult, ...]
    text_scores: tuple[TextScore, ...] = ()
    scores: tuple[Score, ...] = ()


# ---------------------------------------------------------------- what the parts ask of one another


@dataclass(frozen=True)
class Architecture:
    """A decoder-only transformer of LLaMA's shape, causal or bidirectional, as its config.json states it."""

    family: str
    is_causal: bool
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    vocab_size: int
    max_positions: int
    rope_theta: float
    norm_eps: float
    tied_head: bool = False
    mask_id: int | None = None
    eos_id: int | None = None
    eot_id: int | None = None
    pad_id: int | None = None

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.heads

    @property
    def parameters(self) -> int:
        """Number of weights, norms and embeddings included."""
        kv = self.kv_heads * self.head_size
        attention = 2 * self.hidden_size**2 + 2 * self.hidden_size * kv
        layer = attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_head else 2)
        return self.layers * layer + embeddings + self.hidden_size


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a checkpoint: its official name, LLaMA's name for it, and its shape."""

    official: str
    llama: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Texts:
    """What a metric scores: one cell's prompts, its generations, and the model where the metric needs it."""

    cell: Cell
    prompts: tuple[Prompt, ...]
    generations: tuple[StoredGeneration, ...] = ()
    model: LanguageModel | None = None
    rows: int = 16


class Progress(Protocol):
    """Whoever shows how far a run is."""

    def cell(self, cell: Cell, doing: str) -> None:
        """A cell is being worked on."""

    def repetition(self, cell: Cell, latency_s: float) -> None:
        """A repetition is on record."""

    def failed(self, cell: Cell, reason: str) -> None:
        """A cell could not be measured or scored."""


class StepObserver(Protocol):
    """Called by a sampler in traced passes only: once after the prefill or each forward (and its commits)."""

    def __call__(self, forwards: int) -> None:
        """`forwards` done so far."""


class LanguageModel(Protocol):
    """What a sampler sees of an engine. Tensors live on `device`; no method waits for the device."""

    architecture: Architecture

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    def forward(
        self,
        tokens_BQ: torch.Tensor,
        attend_BN: torch.Tensor | None = None,
        cache: Any = None,
        start: int = 0,
    ) -> torch.Tensor:
        """Hidden states_BQD of `tokens_BQ`, which stand at positions start..start+Q of the canvas.

        attend_BN: 1 for real tokens, 0 for padding, over the whole canvas; None when nothing is padded.
        cache: from `new_cache`, or None to compute the whole canvas without keeping anything.
        """

    def logits(self, hidden_BQD: torch.Tensor, first: int, last: int) -> torch.Tensor:
        """Logits_B(last-first)V of positions first..last of `hidden_BQD`."""

    def new_cache(self) -> Any:
        """An empty key-value cache over a canvas; see engines/."""

    def decode(
        self,
        tokens_BP: torch.Tensor,
        attend_BP: torch.Tensor | None,
        new_tokens: int,
        choose: Any,
        on_step: StepObserver | None = None,
    ) -> torch.Tensor:
        """tokens_BG of the engine's own autoregressive loop with a KV cache: exactly `new_tokens` a row.

        choose: (logits_BV, step) -> tokens_B, or None for the argmax.
        """
