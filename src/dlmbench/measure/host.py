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
    """The share of this process's cores that other programs keep busy, since the object was made."""

    def __init__(self) -> None:
        self._started = others_cpu_s(), time.perf_counter()

    def busy_share(self) -> float | None:
        """0 to 1; None where less than `MIN_WINDOW_S` has passed."""
        worked_s, passed_s = others_cpu_s() - self._started[0], time.perf_counter() - self._started[1]
        if passed_s < MIN_WINDOW_S:
            return None
        return min(1.0, max(0.0, worked_s) / passed_s / len(os.sched_getaffinity(0)))
