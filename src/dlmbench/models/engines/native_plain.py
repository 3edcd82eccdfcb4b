"""The native engine without compilation and CUDA graphs: the same arithmetic, launched kernel by kernel.

For a device that supports neither, and to measure the benefit of each.
"""

from __future__ import annotations

from functools import partial

from dlmbench.models.engines.native import CONFIDENCE_DTYPE, transformer
from dlmbench.types import EngineCost

__all__ = ["CONFIDENCE_DTYPE", "COST", "load"]

COST = EngineCost()

load = partial(transformer.load, compile=False, cuda_graphs=False)
