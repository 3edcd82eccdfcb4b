"""The self-check's CUDA parts: events time a kernel of known length, and a slowdown that is planted shows."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from dlmbench.bench.selfcheck import RepeatSlowed, checked_cells  # noqa: E402
from dlmbench.bench.worker import WorkerState  # noqa: E402
from dlmbench.measure.clock import clock_for  # noqa: E402
from dlmbench.measure.environment import fingerprint  # noqa: E402
from dlmbench.measure.selfcheck import clock_bias, known_workloads  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def test_events_time_a_kernel_of_known_length():
    work = known_workloads("cuda")
    for name, length_s in (("kernel", 0.01), ("kernel", 0.1), ("spin", 0.1)):
        assert clock_bias(clock_for("cuda"), name, work[name], length_s).ratio == pytest.approx(1, abs=0.01)


def test_a_planted_slowdown_shows():
    cell, _ = checked_cells(fingerprint("cuda"), "cuda", ["native"])
    state = WorkerState("cuda")
    generator = state.generator(cell.cell)
    for _ in range(3):
        generator.generate(cell.batch)
    plain_s = min(r.latency_s for r in RepeatSlowed(cell.cell, cell.batch, 0.1, 5).run(state) if r.planted == 0)
    replies = list(RepeatSlowed(cell.cell, cell.batch, plain_s, 5).run(state))
    fastest = {p: min(r.latency_s for r in replies if r.planted == p) for p in (0.0, 0.1)}
    assert fastest[0.1] / fastest[0.0] == pytest.approx(1.1, abs=0.01)
