"""Throughput side by side at each batch size: the baseline's bar next to diffusion's at one step count.

The step count is S_parity, at which both are equally good, or the one measured most often where that is not known.
"""

from functools import partial

from dlmbench.charts import throughput

ORDER = 50
points = throughput.points
caption = partial(
    throughput.caption, "side by side at S_parity or, where that is not known, at the K measured most often"
)
chart = throughput.side_by_side
