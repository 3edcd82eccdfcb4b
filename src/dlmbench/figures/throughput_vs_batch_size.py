"""Throughput against batch size, a line for each step count, with the baseline's.

Shows how each model scales: an autoregressive step is bound by memory bandwidth, so a larger batch costs it little; a
diffusion step keeps the device busy with a single text.
"""

from functools import partial

from dlmbench.charts import throughput

ORDER = 60
points = throughput.points
caption = partial(throughput.caption, "a line for each step count K")
chart = throughput.scaling
