"""What a run produces and keeps: prompts, generations, timings, scores, and the run folder read back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from dlmbench.types.study import Cell, LeftOut, Status, stable_hash

SCHEMA_VERSION = 3  # of the files in a run folder
# Seconds that a clock can have measured, from a nanosecond to decades.
Duration = Annotated[float, Interval(ge=1e-9, le=1e9)]
Positive = Annotated[int, Ge(1)]

# ---------------------------------------------------------------- prompts and texts


@dataclass(frozen=True)
class Prompt:
    """A prompt as token ids of one model, its index in the prompt set, and the true continuation if known.

    scored: range [first, last) of the reference tokens that a likelihood counts; None for all. scored_tokens: the
    number of tokens to divide its nats by, where another tokenizer sets it (see prompts).
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
    """Prompts of one batch, padded on the left by the sampler; `prompt_hash` identifies the whole prompt set."""

    prompts: tuple[Prompt, ...]
    prompt_hash: str

    @property
    def indices(self) -> tuple[int, ...]:
        """The prompts' indices in the set, by which random numbers are seeded."""
        return tuple(p.index for p in self.prompts)


@dataclass(frozen=True)
class Trace:
    """When a traced generation committed its tokens: rows B, new tokens G.

    committed_at_BG: the forward (from 1) at which each position was committed; confidence_BG: its confidence then.
    block_ends: for each block, the number of forwards after which it was complete.
    """

    committed_at_BG: tuple[tuple[int, ...], ...]
    confidence_BG: tuple[tuple[float, ...], ...]
    block_ends: tuple[int, ...]


@dataclass(frozen=True)
class Generation:
    """What a sampler generated for one batch, and the work it took, counted while it ran.

    tokens_BG: new tokens only. positions: token positions computed, over all rows (twice with CFG).
    attention_pairs: query-key pairs. wasted_positions: positions computed for rows that were already finished.
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
    """One generated text, stored so that a metric can be added later without generating again."""

    cell_id: str
    prompt_index: int
    prompt_hash: str
    output_ids: tuple[int, ...]
    text: str | None
    forwards: int
    useful_tokens: int | None
    output_bytes: int | None


# ---------------------------------------------------------------- timings


@dataclass(frozen=True)
class Sample:
    """One repetition of a cell. (cell_id, index, is_warmup) is unique in a folder; warm-ups are numbered separately.

    round: of the process. process_id: a random number of each worker process, because the system's ids are used again
    and differ from host to host only by chance. throttle: why the GPU's clock was lowered, "" when it was not.
    other_processes: of others on the same GPU. host_busy: share of the cores that other programs kept busy, over the
    repetition or half a second of visits; None where unknown. load_s: for how long the process had kept the device busy
    with this cell when the repetition began, warm-ups included. device_uuid: of the GPU. neighbours: how many other
    GPUs this run kept busy at the time. energy_j: only in folders before schema version 3; see `EnergyWindow`.
    """

    cell_id: str
    index: int
    is_warmup: bool
    round: int
    process_id: int
    started_at: str
    clock: str
    latency_s: Duration
    wall_s: Duration
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
    load_s: float | None = None
    host_busy: float | None = None
    device_uuid: str | None = None
    neighbours: int | None = None


@dataclass(frozen=True)
class TracedPass:
    """Times inside one untimed generation: token times if autoregressive, block and step times if not.

    traced_s: of the whole generation.
    """

    cell_id: str
    process_id: int
    first_token_s: float | None
    prefill_s: float | None
    inter_token_s: float | None
    inter_token_p50_s: float | None
    inter_token_p95_s: float | None
    first_block_s: float | None
    step_p50_s: float | None
    traced_s: float | None = None


@dataclass(frozen=True)
class CommitOrder:
    """For one prompt, the forward (from 1) at which each new position was committed, and its confidence then."""

    cell_id: str
    prompt_index: int
    forwards: int
    committed_at: tuple[int, ...]
    confidence: tuple[float, ...]


@dataclass(frozen=True)
class MemoryPass:
    """Peak memory of one untimed generation; `source`: cuda or rss.

    peak_allocated_bytes and peak_reserved_bytes come from torch's CUDA allocator, device_bytes (of this process) from
    NVML. peak_process_bytes is the peak resident memory of the process, the only counter on a CPU.
    """

    cell_id: str
    process_id: int
    source: str
    peak_allocated_bytes: Positive | None = None
    peak_reserved_bytes: Positive | None = None
    device_bytes: int | None = None
    peak_process_bytes: Positive | None = None
    idle_power_w: float | None = None


@dataclass(frozen=True)
class EnergyWindow:
    """Energy of `repetitions` generations in a row, from one refresh of the device's counter to another.

    region_s, energy_j: of the whole window, the wait for its last refresh included. refreshes: of the counter in the
    window; None in folders before schema version 3.
    """

    cell_id: str
    process_id: int
    repetitions: Positive
    region_s: Duration
    energy_j: float
    refreshes: int | None = None

    @property
    def generation_j(self) -> float:
        """Joules of one generation."""
        return self.energy_j / self.repetitions


@dataclass(frozen=True)
class DeviceTime:
    """What the seconds of one speed pass went into, on the host's clock; the rest is whatever else kept the device.

    loading_s: from starting processes until their models are loaded. windows_s: of energy. inspection_s: generations
    for step times, memory and texts that scoring lacks.
    """

    seconds: float
    loading_s: float
    warmup_s: float
    timed_s: float
    windows_s: float
    inspection_s: float

    @property
    def measuring_s(self) -> float:
        """Timed repetitions and energy windows."""
        return self.timed_s + self.windows_s


@dataclass(frozen=True)
class CellStatus:
    """How a cell ended; a failed cell is recorded with its reason.

    skipped: not tried because it is predicted not to fit in memory; a later run may still try it.
    """

    cell_id: str
    status: Status
    reason: str = ""


@dataclass(frozen=True)
class CellResult:
    """Everything recorded about one cell. energy: at least one window of each process, where there is a counter."""

    cell: Cell
    status: Status | None
    reason: str
    samples: tuple[Sample, ...]
    traced: TracedPass | None
    memory: MemoryPass | None
    environment_id: str
    order: CommitOrder | None = None
    energy: tuple[EnergyWindow, ...] = ()

    @property
    def timed(self) -> tuple[Sample, ...]:
        """The repetitions without the warm-ups."""
        return tuple(s for s in self.samples if not s.is_warmup)


@dataclass(frozen=True)
class Environment:
    """Where a run took place. COMPARABLE: the fields that must agree within one folder.

    node_shared: whether the cluster's scheduler let other jobs onto the node; None if unknown.
    """

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
    node_shared: bool | None = None

    COMPARABLE = ("device", "driver", "torch", "transformers", "cpu_threads")

    @property
    def id(self) -> str:
        """Equal for environments whose measurements can be compared."""
        return stable_hash({name: getattr(self, name) for name in self.COMPARABLE})


# ---------------------------------------------------------------- the self-check of a machine

LAUNCH_BOUND, BUSY = "launch-bound", "busy"  # the kinds of cells whose noise is measured apart


@dataclass(frozen=True)
class ClockBias:
    """What the clock shows for work of known length: `ratio` is the median of measured over known.

    workload: sleep | spin (the host busy) | kernel (the GPU busy). length_s: about how long each repetition was.
    """

    workload: str
    length_s: float
    ratio: float
    repetitions: int


@dataclass(frozen=True)
class NoiseFloor:
    """How far the medians of equal processes differ on one machine, for cells of one kind in one engine.

    kind: launch-bound | busy. ratio: upper 95% bound of |ratio - 1| for one process on each side. processes: how many
    were compared, in `pairs` pairs. sd_log_upper: upper 95% bound of the standard deviation of log process medians.
    medians_s: the median latency of each process.
    """

    kind: str
    engine: str
    ratio: float
    processes: int
    pairs: int
    sd_log_upper: float
    medians_s: tuple[float, ...] = ()

    def floor(self, processes: int) -> float:
        """Upper 95% bound of |ratio - 1| for a comparison of `processes` processes on each side.

        exp(1.96 sd_log_upper sqrt(2 / processes)) - 1: the means of two times n log medians differ by a standard
        error of sd sqrt(2 / n).
        """
        return math.expm1(1.96 * self.sd_log_upper * math.sqrt(2 / processes))


@dataclass(frozen=True)
class PlantedSlowdown:
    """A cell that was made slower on purpose, by the share `planted` of its latency.

    measured: the share found within the same processes. is_found: whether processes with it are told apart from other
    processes without it, at the noise floor.
    """

    kind: str
    engine: str
    planted: float
    measured: float
    is_found: bool


@dataclass(frozen=True)
class NeighbourCost:
    """What busy neighbours cost a cell of one kind in one engine.

    ratio: its median latency while the other `gpus` - 1 GPUs of the node run the same, over that while they rest.
    """

    kind: str
    engine: str
    gpus: int
    ratio: float


@dataclass(frozen=True)
class Selfcheck:
    """What `dlmbench selfcheck` measured of the instrument on one machine.

    at: when it started, UTC. overhead_s: of the harness per repetition, outside the timed region.
    clock_resolution_s: the smallest positive difference of two readings. load_average: of the host before the check.
    other_cores: cores that other programs kept busy during it. other_processes: on the same GPU, None if unknown.
    not_measured: cells that failed, with the reason. neighbours: only of a check of several GPUs.
    """

    device: str
    host: str
    environment_id: str
    at: str
    duration_s: float
    floors: tuple[NoiseFloor, ...]
    detected: tuple[PlantedSlowdown, ...]
    bias: tuple[ClockBias, ...]
    overhead_s: float
    clock_resolution_s: float
    cores: int
    load_average: float
    other_cores: float
    other_processes: int | None = None
    not_measured: tuple[str, ...] = ()
    neighbours: tuple[NeighbourCost, ...] = ()

    MAX_BUSY_SHARE = 0.25  # of the cores, by other programs

    def floor(self, engine: str, processes: int, kind: str | None = None) -> float | None:
        """The noise floor of an engine for `processes` processes on each side; of the noisier kind with kind None.

        None where cells of this engine and kind were not measured.
        """
        found = [f.floor(processes) for f in self.floors if f.engine == engine and kind in (None, f.kind)]
        return max(found, default=None)

    def neighbour_cost(self, engine: str, kind: str) -> float | None:
        """The share that busy neighbours add to such a cell's latency; None where that was not measured."""
        return max((n.ratio - 1 for n in self.neighbours if (n.engine, n.kind) == (engine, kind)), default=None)

    def smallest_found(self, engine: str, kind: str) -> float | None:
        """The smallest planted slowdown from which all larger ones were found; None if not even the largest was."""
        smallest = None
        own = (d for d in self.detected if (d.engine, d.kind) == (engine, kind))
        for slowdown in sorted(own, key=lambda d: -d.planted):
            if not slowdown.is_found:
                break
            smallest = slowdown.planted
        return smallest

    @property
    def is_disturbed(self) -> bool:
        """Whether other programs kept the GPU, or over a quarter of the cores, busy: the floors are theirs as well."""
        return bool(self.other_processes) or max(self.load_average, self.other_cores) > self.MAX_BUSY_SHARE * self.cores


# ---------------------------------------------------------------- scores


@dataclass(frozen=True)
class TextScore:
    """A metric's value for one text as total / weight, so that aggregates can be resampled.

    The aggregate over texts is sum(total) / sum(weight): nats over tokens, violations over slots, and so on.
    stderr: Monte Carlo error of `total` if it is an estimate. size_bytes, words: of the scored text, to convert nats
    into other units. judge: the model that scored it. remark: a caveat about this text.
    """

    cell_id: str
    metric: str
    prompt_index: int
    total: float
    weight: float
    stderr: float | None = None
    size_bytes: int | None = None
    words: int | None = None
    judge: str | None = None
    remark: str = ""


@dataclass(frozen=True)
class Unscored:
    """A text that a metric could not score, and why; with prompt_index None, all texts of the cell."""

    cell_id: str
    metric: str
    prompt_index: int | None
    reason: str
    judge: str | None = None


@dataclass(frozen=True)
class WholeScore:
    """The value of a metric that is only defined over all `n` texts of a cell together."""

    cell_id: str
    metric: str
    value: float
    n: int
    judge: str | None = None
    remark: str = ""


TextResult = TextScore | Unscored | WholeScore


@dataclass(frozen=True)
class ConvertedScore:
    """A score in another unit, with its interval."""

    unit: str
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class UnscoredText:
    """One text that an aggregate does not include, and why."""

    prompt_index: int
    reason: str


@dataclass(frozen=True)
class Score:
    """A metric aggregated over the `n` scored texts of a cell, with the interval of a bootstrap over prompts.

    unscored: the other texts, with reasons. monte_carlo_stderr: the part of the uncertainty that more draws would
    remove. self_judged: the judge is itself a model of the run.
    """

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
    monte_carlo_stderr: float | None = None
    in_other_units: tuple[ConvertedScore, ...] = ()
    unscored: tuple[UnscoredText, ...] = ()
    self_judged: bool = False


@dataclass(frozen=True)
class Finding:
    """Something that a reader of the results should know, with advice."""

    code: str
    severity: Literal["info", "warning", "error"]
    cell_id: str | None
    message: str
    hint: str


@dataclass(frozen=True)
class Run:
    """A run folder, read back from its files. selfcheck: of the machine, None where it had none."""

    folder: str
    name: str
    environment: Environment | None
    cells: tuple[Cell, ...]
    left_out: tuple[LeftOut, ...]
    results: tuple[CellResult, ...]
    text_scores: tuple[TextScore, ...] = ()
    scores: tuple[Score, ...] = ()
    unscored: tuple[Unscored, ...] = ()
    selfcheck: Selfcheck | None = None
    device_time: tuple[DeviceTime, ...] = ()
