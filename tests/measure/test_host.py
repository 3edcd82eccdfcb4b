"""What other programs do on the host meanwhile: seen while they work, unknown over too short a time."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from dlmbench.measure.host import MIN_WINDOW_S, HostLoad


def test_another_program_is_seen_and_our_own_work_is_not():
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.2)
        load = HostLoad()
        assert load.busy_share() is None
        time.sleep(MIN_WINDOW_S + 0.5)
        beside = load.busy_share()
    finally:
        other.kill()
        other.wait()
    assert beside is not None
    assert beside * len(os.sched_getaffinity(0)) > 0.3  # most of a core, on however many this machine has
    assert beside <= 1.0
