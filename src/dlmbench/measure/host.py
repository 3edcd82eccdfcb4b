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
    """The share of this process's cores that other programs keep busy during its visits; one object for the process."""

    def __init__(self) -> None:
        self._visited = [(0.0, 0.0)]  # seconds that others worked, and that passed, in visits so far
        self.begin()

    def begin(self) -> None:
        """Begin a visit. What goes on between visits, such as those of the run's other workers, does not count."""
        self._mark = others_cpu_s(), time.perf_counter()

    def busy_share(self) -> float | None:
        """0 to 1, over the latest `MIN_WINDOW_S` or more of visits; None before there is as much."""
        now, (worked_s, passed_s) = (others_cpu_s(), time.perf_counter()), self._visited[-1]
        latest = worked_s + now[0] - self._mark[0], passed_s + now[1] - self._mark[1]
        self._mark = now
        old = [v for v in self._visited if latest[1] - v[1] >= MIN_WINDOW_S]
        self._visited = [*old[-1:], *self._visited[len(old) :], latest]
        if not old:
            return None
        share = (latest[0] - old[-1][0]) / (latest[1] - old[-1][1]) / len(os.sched_getaffinity(0))
        return min(1.0, max(0.0, share))
