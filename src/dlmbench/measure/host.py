"""What other programs do on the host meanwhile."""

from __future__ import annotations

import os
import time

# The kernel counts CPU time in hundredths of a second, which is too coarse for less.
MIN_WINDOW_S = 0.5


def others_cpu_s() -> float:
    """Seconds that all cores together have worked for other programs than this one and its ended workers."""
    import psutil

    host, own = psutil.cpu_times(), os.times()
    return float(host.user + host.system) - (own.user + own.system + own.children_user + own.children_system)


class HostLoad:
    """The share of this process's cores that other programs keep busy; one object for the whole process."""

    def __init__(self) -> None:
        self._readings = [(others_cpu_s(), time.perf_counter())]

    def busy_share(self) -> float | None:
        """0 to 1, since the latest call that is `MIN_WINDOW_S` ago or more; None before there is one."""
        now = others_cpu_s(), time.perf_counter()
        old = [r for r in self._readings if now[1] - r[1] >= MIN_WINDOW_S]
        self._readings = [*old[-1:], *self._readings[len(old) :], now]
        if not old:
            return None
        worked_s, passed_s = now[0] - old[-1][0], now[1] - old[-1][1]
        return min(1.0, max(0.0, worked_s) / passed_s / len(os.sched_getaffinity(0)))
