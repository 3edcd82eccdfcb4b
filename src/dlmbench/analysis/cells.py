"""One cell as a run left it: its timed repetitions and its peak memory."""

from __future__ import annotations

import numpy as np

from dlmbench.analysis.nouns import PeakMemory
from dlmbench.analysis.speedup import Repetitions
from dlmbench.types import CellResult, MemoryPass


def repetitions_of(result: CellResult) -> Repetitions | None:
    """The timed repetitions of a cell that ended well, None where there are none."""
    timed = [s for s in result.timed if s.latency_s > 0]
    if result.status not in ("ok", None) or not timed:
        return None
    latency = np.array([s.latency_s for s in timed])
    tokens = np.array([s.new_tokens for s in timed], dtype=np.float64)
    energy = [s.energy_j for s in timed if s.energy_j is not None]
    if not energy and result.energy is not None:
        # Generations too short to be metered one by one have one value, the mean over a pass of their own.
        energy = [result.energy.energy_j]
    # A generation of no tokens has no throughput; 1 keeps its inverse finite and findings report it.
    return Repetitions(latency, np.maximum(tokens, 1.0) / latency, np.array(energy) if energy else None)


def peak_of(memory: MemoryPass | None) -> PeakMemory | None:
    """The peak a device reserves or, on a CPU, that of the process."""
    if memory is None:
        return None
    if memory.peak_reserved_bytes is not None:
        return PeakMemory(memory.peak_reserved_bytes, "CUDA memory reserved")
    if memory.peak_process_bytes is not None:
        return PeakMemory(memory.peak_process_bytes, "resident memory of the process")
    return None
