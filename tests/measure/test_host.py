"""What other programs do on the host meanwhile: seen while they work, unknown over too short a time."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from dlmbench.measure import host
from dlmbench.measure.host import MIN_WINDOW_S, HostLoad


def a_program_that_spins() -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", "while True: pass"])


def test_what_works_between_two_visits_does_not_count(monkeypatch):
    """The run's other worker is busy while this one waits: only what others do during a visit disturbs it."""
    worked_s, now_s = 0.0, 0.0  # read from here, since other programs work on any real host
    monkeypatch.setattr(host, "others_cpu_s", lambda: worked_s)
    monkeypatch.setattr(host.time, "perf_counter", lambda: now_s)
    load = HostLoad()
    now_s += MIN_WINDOW_S
    assert load.busy_share() == 0.0
    worked_s, now_s = worked_s + 1.0, now_s + 1.0
    load.begin()
    worked_s, now_s = worked_s + 0.02, now_s + 0.1
    share = load.busy_share()
    assert share == pytest.approx(0.02 / (MIN_WINDOW_S + 0.1) / len(os.sched_getaffinity(0)))


def test_short_visits_add_up():
    other = a_program_that_spins()
    try:
        time.sleep(0.2)
        load = HostLoad()
        shares = []
        for _ in range(12):
            load.begin()
            time.sleep(0.1)
            shares.append(load.busy_share())
    finally:
        other.kill()
        other.wait()
    assert shares[0] is None
    assert shares[-1] is not None
    assert shares[-1] * len(os.sched_getaffinity(0)) > 0.3


def test_another_program_is_seen_and_our_own_work_is_not():
    other = a_program_that_spins()
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
