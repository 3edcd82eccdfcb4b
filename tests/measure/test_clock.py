import time

import pytest

from dlmbench.errors import BenchError
from dlmbench.measure.clock import Clock, CudaClock, clock_for
from support.fake_clock import FakeClock


def test_fake_clock_gives_its_times_in_order_to_marks_and_wall_alike():
    clock = FakeClock([1.0, 1.25, 3.0])
    a, b = clock.mark(), clock.mark()
    clock.synchronize()
    assert clock.seconds(a, b) == 0.25
    assert clock.wall() == 3.0
    assert clock.calls == ["mark", "mark", "synchronize", "wall"]
    with pytest.raises(AssertionError, match="no time left"):
        clock.mark()


def test_fake_clock_refuses_marks_compared_before_synchronize():
    clock = FakeClock([0.0, 1.0])
    a = clock.mark()
    clock.synchronize()
    b = clock.mark()
    with pytest.raises(AssertionError, match="before synchronize"):
        clock.seconds(a, b)


def test_the_wall_clock_measures_a_sleep():
    clock = clock_for("cpu")
    assert type(clock) is Clock
    assert clock.name == "wall"
    a, wall = clock.mark(), clock.wall()
    time.sleep(0.02)
    b = clock.mark()
    clock.synchronize()
    assert 0.02 <= clock.seconds(a, b) < 0.5
    assert 0.02 <= clock.wall() - wall < 0.5


def test_a_device_without_a_clock_is_refused():
    with pytest.raises(BenchError, match="no clock for device 'mps'"):
        clock_for("mps")


def test_the_cuda_clock_reads_milliseconds_between_events_on_the_stream(monkeypatch):
    import torch

    calls, times_ms = [], iter([10.0, 260.0])

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            calls.append("record")
            self.at_ms = next(times_ms)

        def elapsed_time(self, end):
            return end.at_ms - self.at_ms

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("synchronize"))
    clock = clock_for("cuda")
    start, end = clock.mark(), clock.mark()
    clock.synchronize()
    assert clock.seconds(start, end) == 0.25
    assert calls == ["record", "record", "synchronize"]


@pytest.mark.gpu
def test_cuda_events_see_the_work_that_an_unsynchronized_host_timer_misses():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    clock = clock_for("cuda")
    assert isinstance(clock, CudaClock)
    x = torch.randn(8192, 8192, device="cuda")
    x @ x
    clock.synchronize()
    wall, a = clock.wall(), clock.mark()
    for _ in range(10):
        x @ x
    b = clock.mark()
    queued_s = clock.wall() - wall
    clock.synchronize()
    done_s = clock.wall() - wall
    assert queued_s < 0.5 * clock.seconds(a, b)
    assert clock.seconds(a, b) == pytest.approx(done_s, rel=0.1)
