"""Quality against diffusion steps by the leading metric, the baseline as a band, S_parity marked.

How many steps does diffusion need to match the quality of the baseline (S_parity)?
"""

from functools import partial

from dlmbench.charts import quality

ORDER = 30
points = partial(quality.points, True)
caption = quality.caption
chart = quality.chart
