"""What one inspection of a cell yields, against passes of their own, and the grid that the harness is measured on."""

import sys
from dataclasses import replace

import pytest

from dlmbench.experiment import plan
from support.examples import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import harness


def test_the_grid_has_thirteen_cells_of_both_models():
    for weights in harness.LENGTHS:
        cells = plan.expand(harness.experiment_of(weights, 3.0)).cells
        assert len(cells) == 13
        assert len({c.model.key for c in cells}) == 2


def test_one_inspection_shows_the_memory_of_separate_passes():
    """On a CPU: resident memory, which the interpreter and its libraries fill to hundreds of MiB."""
    experiment = harness.experiment_of("tiny", 1.0)
    experiment = replace(experiment, grids=(replace(experiment.grids[0], lengths=((8, 8),), batch_sizes=(1,)),))
    rows = list(harness.inspections(experiment))
    assert {row["cell"].split()[0] for row in rows} == {"llama", "llada"}
    for row in rows:
        assert row["traced_s"]["joint"] > 0
        if "peak_process_bytes" in row:
            assert row["peak_process_bytes"]["ratio"] == pytest.approx(1.0, abs=0.05)


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["hf", "native"])
def test_one_inspection_is_harmless_on_a_gpu(engine):
    """Peaks agree to the allocator's 2 MiB, and steps are as fast as in a pass that only traces."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    experiment = harness.experiment_of("tiny", 1.0)
    grids = tuple(replace(g, engines=(engine,), precision="bfloat16") for g in experiment.grids)
    for row in harness.inspections(replace(experiment, grids=grids)):
        for name in ("peak_allocated_bytes", "peak_reserved_bytes"):
            assert abs(row[name]["joint"] - row[name]["separate"]) <= 2 * 2**20, (row["cell"], name)
        for name in ("step_p50_s", "inter_token_p50_s"):
            if name in row:
                assert row[name]["ratio"] == pytest.approx(1.0, abs=0.1), (row["cell"], name)
