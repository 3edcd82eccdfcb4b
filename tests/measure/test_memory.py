import sys

import pytest

from dlmbench.measure.memory import measure_memory

MIB = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="the resident peak is read from /proc")
def test_a_small_generation_does_not_inherit_the_peak_of_a_large_one():
    def touch(mib):
        return lambda: bytes(bytearray(b"x") * (mib * MIB))[0]

    small = measure_memory("small", 1, touch(10), "cpu")
    large = measure_memory("large", 1, touch(150), "cpu")
    again = measure_memory("small", 1, touch(10), "cpu")
    assert small.source == "rss"
    if small.peak_process_bytes is None:
        pytest.skip("this kernel does not let a process reset its peak")
    assert large.peak_process_bytes - small.peak_process_bytes > 120 * MIB
    assert abs(again.peak_process_bytes - small.peak_process_bytes) < 30 * MIB
    assert (large.peak_allocated_bytes, large.peak_reserved_bytes, large.device_bytes) == (None, None, None)


def test_a_peak_that_cannot_be_reset_is_unknown_and_not_somebody_elses(monkeypatch, tmp_path):
    monkeypatch.setattr("dlmbench.measure.memory._CLEAR_REFS", tmp_path / "absent" / "clear_refs")
    ran = []
    assert measure_memory("c", 1, lambda: ran.append(1), "cpu").peak_process_bytes is None
    assert ran == [1]


def test_a_peak_on_the_gpu_begins_with_an_empty_cache_and_is_read_after_the_work(monkeypatch):
    import torch

    calls = []
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda name=name: calls.append(name))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: calls.append("read") or 7)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 8)
    found = measure_memory("c", 1, lambda: calls.append("generate"), "cuda")
    assert (found.source, found.peak_allocated_bytes, found.peak_reserved_bytes) == ("cuda", 7, 8)
    before = ["synchronize", "empty_cache", "reset_peak_memory_stats"]
    assert calls == [*before, "generate", "synchronize", "read"]


@pytest.mark.gpu
def test_cuda_peaks_are_the_generations_own():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")

    def fill(mib):
        return lambda: torch.empty(mib * MIB, dtype=torch.uint8, device="cuda").fill_(1)

    large, small = measure_memory("large", 1, fill(512), "cuda"), measure_memory("small", 1, fill(64), "cuda")
    assert large.source == "cuda"
    assert 512 * MIB <= large.peak_allocated_bytes <= large.peak_reserved_bytes
    assert 64 * MIB <= small.peak_reserved_bytes < 200 * MIB
    assert large.device_bytes is None or large.device_bytes >= 512 * MIB
