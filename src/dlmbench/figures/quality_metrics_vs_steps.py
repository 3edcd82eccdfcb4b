"""Further quality metrics against diffusion steps, a panel for each, the baseline as a band, S_parity marked."""

from functools import partial

from dlmbench.charts import quality

points = partial(quality.points, False)
caption = quality.caption
chart = quality.chart
