"""Throughput against batch size, a line for each step count, with the baseline's.

Shows how each model scales: an autoregressive step is bound by memory bandwidth, so a larger batch costs it little; a
diffusion step keeps the device busy with a single text.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import altair as alt
import pandas as pd

from dlmbench.charts import style, throughput

ORDER = 60
points = throughput.points
caption = partial(throughput.caption, "a line for each step count K")


def chart(frame: pd.DataFrame) -> Any:
    """A panel for each (sampler's settings, prompt, new tokens); colour and shape are K, the baseline is dashed."""
    shown, marks = throughput.by_series(frame, style.log2_axis("batch_size", "batch size", list(frame["batch_size"])))
    return style.panels(marks.curves(alt.Chart()), shown)
