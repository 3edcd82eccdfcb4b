"""What was measured: repetitions, passes of their own, how a cell ended, and where."""

from __future__ import annotations

from dataclasses import dataclass

from dlmbench.types._base import SCHEMA_VERSION, Status, stable_hash
from dlmbench.types._study import Cell


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
    """How a cell ended. A cell never vanishes: what failed is a record with its reason.

    skipped: it was not tried, because it is predicted not to fit into memory; a later run may still try it.
    """

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
    """Where a run took place. COMPARABLE names the fields that must agree within one folder.

    node_shared: whether a cluster's scheduler let other jobs onto the node; None where nobody can say.
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
        """Equal for environments whose measurements may be compared."""
        return stable_hash({name: getattr(self, name) for name in self.COMPARABLE})
