"""The native engine without compilation and without records: the same arithmetic, launched kernel by kernel.

For a device that can do neither, and to see what either is worth.
"""

from __future__ import annotations

from functools import partial

from dlmbench.models.engines.native import transformer
from dlmbench.types import EngineCost

COST = EngineCost()

load = partial(transformer.load, compile=False, record=False)
