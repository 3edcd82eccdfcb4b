"""Throughput side by side at each batch size: the baseline's bar, then one for each step count.

The points of throughput_vs_batch_size as bars, to compare the models at one batch size.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import altair as alt
import pandas as pd

from dlmbench.charts import style, throughput

ORDER = 50
points = throughput.points
caption = partial(throughput.caption, "side by side")


def chart(frame: pd.DataFrame) -> Any:
    """A panel for each (sampler's settings, prompt, new tokens): bars from zero, or dots on a logarithmic axis."""
    x: Any = alt.X("batch_size:O", title="batch size", axis=alt.Axis(labelAngle=0))
    shown, marks = throughput.by_series(frame, x)
    bars = alt.Chart().mark_bar().encode(x=x, y=marks.y, color=marks.looks.color, tooltip=marks.tips)
    values = marks.points(alt.Chart()) if marks.y["scale"]["type"] == "log" else bars
    ends = marks.intervals(alt.Chart()).encode(color=alt.value(style.ALARM))
    beside = alt.XOffset("line:N", sort=marks.looks.domain)
    return style.panels([layer.encode(xOffset=beside) for layer in (values, ends)], shown)
