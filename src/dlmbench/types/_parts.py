"""Interfaces between the packages: architectures, costs, engines, runners, progress and step callbacks."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from dlmbench.types.records import Generation, Prompt, PromptBatch, StoredGeneration
from dlmbench.types.study import Cell, KnobValue, MetricRequest

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Architecture:
    """A decoder-only transformer with LLaMA's architecture, causal or bidirectional, as its config.json states it."""

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
    more_eos_ids: tuple[int, ...] = ()

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Every token that ends a text: `eos_id`, and the others that the checkpoint names."""
        return (() if self.eos_id is None else (self.eos_id,)) + self.more_eos_ids

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
class ForwardShape:
    """`count` equal forwards of one sequence, as a sampler plans them.

    Forwards that differ in their context only are described by the mean context, since every cost is linear in it.

    positions: token positions computed. context: keys that a position sees at most. pairs: query-key pairs that the
    mask allows. sampled: positions at which a token is chosen from its logits. cached: positions whose keys and
    values are read from or written to a cache. copies: rows per sequence, 2 with classifier-free guidance.
    """

    count: float
    positions: int
    context: float
    pairs: float
    sampled: int
    cached: float = 0
    copies: int = 1


@dataclass(frozen=True)
class Efficiencies:
    """Shares of the data sheet's rates that an engine reaches, and the host's time to launch one forward.

    matrix, attention: of the matrix rate. bandwidth: of the memory's. host_s: seconds per forward; the host runs ahead
    of the device, so a forward takes the longer of the two, not their sum.
    """

    matrix: float
    bandwidth: float
    attention: float
    host_s: float


@dataclass(frozen=True)
class EngineCost:
    """How an engine runs a model, as far as time and memory depend on it; the attribute COST of an engine plug-in.

    head_on_all_positions: a bidirectional forward evaluates the output head at every position, not only where tokens
    are chosen. is_fused: the pointwise operators between matrix products are fused. has_static_cache: the KV cache of
    a decode loop is allocated at once. logits_chunk_bytes, mlp_chunk_rows: the head and the feed-forward process so
    much at a time; None for everything at once.
    efficiencies: by paradigm; without them a calibration is needed for times. measured_on: what they were measured on.
    caveat: what a reader should know of times predicted with them.
    """

    head_on_all_positions: bool = False
    is_fused: bool = False
    has_static_cache: bool = False
    logits_chunk_bytes: int | None = None
    mlp_chunk_rows: int | None = None
    efficiencies: Mapping[str, Efficiencies] = field(default_factory=dict)
    measured_on: str = ""
    caveat: str = ""


@dataclass(frozen=True)
class Texts:
    """What a metric scores: one cell's prompts, its generations, and the model where the metric needs it.

    request: the metric's settings. rows: batch size of the scoring forwards. device: for models that the
    metric loads itself.
    """

    cell: Cell
    prompts: tuple[Prompt, ...]
    generations: tuple[StoredGeneration, ...] = ()
    model: LanguageModel | None = None
    rows: int = 16
    request: MetricRequest | None = None
    device: str = "cpu"


class Progress(Protocol):
    """Receives progress updates of a run."""

    def cell(self, cell: Cell, doing: str) -> None:
        """Work on a cell has started."""

    def repetition(self, cell: Cell, latency_s: float) -> None:
        """A repetition was recorded."""

    def left(self, seconds: float | None, unknown_cells: int) -> None:
        """Estimated seconds left of the speed pass, without `unknown_cells`; None when it has finished."""

    def failed(self, cell: Cell, reason: str) -> None:
        """A cell could not be measured or scored."""


# Called by a sampler, in traced passes only, after the prefill and after each forward and its commits, with the number
# of forwards done so far.
OnStep = Callable[[int], None]


class GraphRunner(Protocol):
    """Runs the steps of one kind of generation on tensors that the steps update in place (`state`).

    An engine may keep a runner and capture its steps as CUDA graphs, to replay them with one launch each.
    """

    state: Any

    def run(self, name: Hashable, step: Callable[[], None]) -> None:
        """Run `step`, or replay the graph captured under `name`; a name must always denote the same step."""


@dataclass
class EagerRunner:
    """A `GraphRunner` without graphs: runs each step directly."""

    state: Any

    def run(self, name: Hashable, step: Callable[[], None]) -> None:
        """Run `step`."""
        step()


class LanguageModel(Protocol):
    """What a sampler sees of an engine. Tensors live on `device`; no method synchronizes with the device."""

    architecture: Architecture

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    def forward(
        self,
        tokens_BQ: torch.Tensor,
        attention_mask_BN: torch.Tensor | None = None,
        cache: Any = None,
        start: int = 0,
    ) -> torch.Tensor:
        """Hidden states_BQD of `tokens_BQ`, which are at positions start..start+Q of the canvas.

        attention_mask_BN: 1 for real tokens, 0 for padding, over the whole canvas; None when nothing is padded.
        cache: from `new_cache`, or None to compute the whole canvas without caching.
        """

    def logits(self, hidden_BQD: torch.Tensor, first: int, last: int) -> torch.Tensor:
        """Logits_B(last-first)V of positions first..last (exclusive) of `hidden_BQD`."""

    def logits_chunks(self, hidden_BQD: torch.Tensor, first: int, last: int) -> Iterator[torch.Tensor]:
        """Like `logits`, in chunks logits_BwV of bounded size from left to right; a chunk may overwrite the last."""

    def new_cache(self, rows: int, length: int) -> Any:
        """A KV cache over a canvas of `length`; its first forward must cover the whole canvas."""

    def graph_runner(self, key: Hashable, make: Callable[[], Any]) -> GraphRunner:
        """The runner of all generations with this `key`; `make` allocates its state."""

    def maybe_compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` of tensors, compiled if the engine compiles, else unchanged."""

    def reset_graphs(self) -> None:
        """Drop all runners and their graphs, so that the next memory reading is of one generation alone."""

    def decode(
        self,
        tokens_BP: torch.Tensor,
        attention_mask_BP: torch.Tensor | None,
        new_tokens: int,
        choose: Any,
        on_step: OnStep | None = None,
    ) -> torch.Tensor:
        """tokens_BG of the engine's own autoregressive loop with a KV cache: exactly `new_tokens` per row.

        choose: (logits_BV, step) -> tokens_B, or None for the argmax.
        """


@runtime_checkable
class Generator(Protocol):
    """What the benchmark measures: a model together with the way it generates.

    A sampler over a `LanguageModel` is one implementation (`sampling.generator`), a served model another.
    """

    def generate(
        self,
        batch: PromptBatch,
        new_tokens: int,
        knobs: Mapping[str, KnobValue],
        seed: int,
        on_step: OnStep | None = None,
        trace: bool = False,
    ) -> Generation:
        """Continue each of B prompts by exactly G = `new_tokens` tokens.

        knobs: of the sampler, resolved. seed: for all random draws. on_step: after each forward, in traced passes.
        trace: also record when each position was committed.
        """

    def reset(self) -> None:
        """Drop captured graphs and caches, so that the next memory reading is of one generation alone."""
