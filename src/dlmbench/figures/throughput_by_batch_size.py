"""Throughput side by side at each batch size: the baseline's bar, then one for each step count.

The points of throughput_vs_batch_size as bars, to compare the models at one batch size.
"""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from dlmbench.analysis.study import Study
from dlmbench.charts import style, throughput
from dlmbench.types import Run

ORDER = 50


def points(run: Run, study: Study) -> pd.DataFrame:
    """Median new tokens per second of every timed cell."""
    return throughput.points(study)


def caption(frame: pd.DataFrame) -> str:
    """What is shown."""
    return throughput.caption("side by side")


def chart(frame: pd.DataFrame) -> Any:
    """A panel for each (sampler's settings, prompt, new tokens): bars from zero, or dots on a logarithmic axis."""
    shown, tips, looks = throughput.shown(frame)
    x: Any = alt.X("batch_size:O", title="batch size", axis=alt.Axis(labelAngle=0))
    y, beside = throughput.y_axis(frame), alt.XOffset("line:N", sort=looks.domain)
    is_log = y["scale"]["type"] == "log"
    rows = alt.Chart().mark_point(filled=True, opacity=1) if is_log else alt.Chart().mark_bar()
    shape = {"shape": looks.shape} if is_log else {}
    marks = rows.encode(x=x, y=y, xOffset=beside, color=looks.color, tooltip=tips, **shape)
    ends = style.intervals(alt.Chart(), x, y, "tokens_per_s", alt.value(style.ALARM)).encode(xOffset=beside)
    return style.panels([marks, ends], shown)
