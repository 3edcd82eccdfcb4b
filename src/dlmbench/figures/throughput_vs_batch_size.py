"""Throughput against batch size, a line for each step count, with the baseline's.

Shows how each model scales: an autoregressive step is bound by memory bandwidth, so a larger batch costs it little; a
diffusion step keeps the device busy with a single text.
"""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from dlmbench.analysis.study import Study
from dlmbench.charts import style, throughput
from dlmbench.types import Run

ORDER = 60


def points(run: Run, study: Study) -> pd.DataFrame:
    """Median new tokens per second of every timed cell."""
    return throughput.points(study)


def caption(frame: pd.DataFrame) -> str:
    """What is shown."""
    return throughput.caption("a line for each step count K")


def chart(frame: pd.DataFrame) -> Any:
    """A panel for each (sampler's settings, prompt, new tokens); colour and shape are K, the baseline is dashed."""
    shown, tips, looks = throughput.shown(frame)
    x = style.log2_axis("batch_size", "batch size", list(frame["batch_size"]))
    return style.panels(style.curves(alt.Chart(), x, throughput.y_axis(frame), "tokens_per_s", looks, tips), shown)
