"""Calibration finds known efficiencies again, is tested on groups left out, and fits what was measured on an H200."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from dlmbench import registry
from dlmbench.errors import BenchError
from dlmbench.models.loading import architectures
from dlmbench.results import read_run
from dlmbench.roofline import corrected, models_8b, operators
from dlmbench.roofline.calibrate import (
    TRANSFER_SD,
    calibrate,
    estimate,
    load_calibration,
    log_errors,
    measured_cells,
)
from dlmbench.roofline.corrected import MeasuredCell
from dlmbench.roofline.hardware import find
from dlmbench.roofline.models_8b import LLADA_8B, LLAMA_8B, cell
from dlmbench.types import CellResult, Efficiencies, Sample

H200, A100 = find("H200"), find("A100 80GB SXM")
TRUE = Efficiencies(matrix=0.52, bandwidth=0.81, attention=0.3, host_s=0.005)


def _cells(arch, hardware=H200, efficiencies=TRUE, noise=0.02, seed=0):
    draw, rows = np.random.default_rng(seed), []
    for prompt, new in ((16, 16), (64, 64), (256, 256), (512, 512), (1024, 1024), (1920, 128)):
        for batch in (1, 4, 16, 64):
            for knobs in (
                ({},) if arch.is_causal else ({"steps": 16}, {"steps": 64, "block_length": 16, "cache": "dual"})
            ):
                x = cell(arch, "hf", (batch, prompt, new), **knobs)
                seconds = corrected.latency_s(x, arch, hardware, efficiencies)
                rows.append(MeasuredCell(x, arch, hardware, seconds * math.exp(noise * draw.standard_normal())))
    return rows


@pytest.mark.parametrize("seed", [0, 1])
def test_known_efficiencies_are_found_again(seed):
    """Both models together meet every limit: compute, launches, and memory in decodes of large batches."""
    found = calibrate(_cells(LLADA_8B, seed=seed) + _cells(LLAMA_8B, seed=seed + 2))
    for name in ("matrix", "bandwidth", "host_s"):
        assert getattr(found.efficiencies, name) == pytest.approx(getattr(TRUE, name), rel=0.05), name
    # A small part of the work: known less well, and mattering less.
    assert found.efficiencies.attention == pytest.approx(TRUE.attention, rel=0.25)
    assert found.median_error < 0.03
    assert found.p90_error < 0.06
    assert len(found.held_out) == 12


def test_left_out_groups_are_really_left_out():
    """One length is made three times as slow: its own fit must not have seen it."""
    rows = [replace(r, latency_s=3 * r.latency_s) if r.cell.prompt_tokens == 1920 else r for r in _cells(LLADA_8B)]
    odd = next(h for h in calibrate(rows).held_out if h.prompt_tokens == 1920)
    assert odd.efficiencies.matrix == pytest.approx(TRUE.matrix, rel=0.05)
    assert all(e == pytest.approx(2 / 3, abs=0.1) for e in odd.errors)


def test_json_there_and_back(tmp_path):
    found = calibrate(_cells(LLADA_8B)[::3], "hf")
    path = tmp_path / "calibration.json"
    text = json.dumps({"schema_version": 2, "run": "r", "hardware": {"name": "H200"}, "calibrations": [asdict(found)]})
    path.write_text(text)
    assert load_calibration(path).calibrations == (found,)
    for damaged in ("[]", "{}", text.replace("matrix", "matrices")):
        path.write_text(damaged)
        with pytest.raises(BenchError, match="is not a calibration"):
            load_calibration(path)


def test_estimates_cover_and_widen_on_another_device():
    found = calibrate(_cells(LLADA_8B))
    x = cell(LLADA_8B, "hf", (8, 300, 100), steps=20)
    here, there = (estimate(found, x, LLADA_8B, h) for h in (H200, A100))
    truth = corrected.latency_s(x, LLADA_8B, H200, TRUE)
    assert here.low_s < truth < here.high_s
    assert here.high_s / here.value_s < 1.1
    assert there.high_s / there.value_s > 1.3
    assert there.low_s >= corrected.floor_s(x, LLADA_8B, A100)


def test_how_well_efficiencies_move_can_be_measured():
    elsewhere = _cells(LLADA_8B, A100, replace(TRUE, matrix=0.7, host_s=0.02), noise=0)
    errors = log_errors(TRUE, elsewhere)
    assert max(errors) == pytest.approx(math.log(0.7 / 0.52), abs=0.05)


def test_the_spread_of_a_move_is_the_one_that_was_measured():
    """Efficiencies of one session on an H200, held against the cells of another session on one."""
    errors = [
        error
        for rows in _studied("h200-random").values()
        for error in log_errors(corrected.efficiencies_for(rows[0].cell), rows)
    ]
    assert len(errors) == 30
    assert math.sqrt(sum(e**2 for e in errors) / len(errors)) == pytest.approx(TRANSFER_SD, abs=0.01)


def test_cached_forwards_to_which_no_efficiency_was_fitted():
    """A later forward of the middle block of 32: few positions, where FLOPs and bytes take about equally long."""
    measured = json.loads((Path(__file__).parents[2] / "docs/study/engines-h200/engines.json").read_text())
    errors = []
    for row in (r for r in measured["rows"] if r["engine"] == "native" and r["what"] in ("dual", "prefix")):
        x = cell(LLADA_8B, "native", (row["batch"], row["prompt"], row["new"]), cache=row["what"], block_length=32)
        length, middle = row["prompt"] + row["new"], row["prompt"] + row["new"] // 2
        start, stop = registry.load("cache", row["what"]).span(middle, middle + 32, length)
        shape = {"positions": stop - start, "context": length, "pairs": (stop - start) * length, "cached": length}
        forward = operators.Forward(count=1, sampled=32, rows=row["batch"], head=32, **shape)
        load, efficiencies = operators.load_of(forward, x, LLADA_8B), corrected.efficiencies_for(x)
        seconds = corrected.forward_s(load, corrected.rates_of(x, H200), efficiencies)
        errors.append(abs(1e3 * seconds / row["ms"] - 1))
    assert len(errors) == 14
    assert np.median(errors) < 0.02
    assert max(errors) < 0.08


@pytest.mark.parametrize(
    ("label", "cells", "median", "worst"),
    [("native/autoregressive", 11, 0.02, 0.045), ("native/masked_diffusion", 45, 0.03, 0.125)],
)
def test_the_defaults_on_cells_of_a_later_session(label, cells, median, worst):
    rows = _studied("tasks")[label]
    errors = np.abs(np.expm1(log_errors(corrected.efficiencies_for(rows[0].cell), rows)))
    assert len(errors) == cells
    assert np.median(errors) < median
    assert max(errors) < worst


def test_cells_of_a_run_by_engine_and_sampler():
    def result(x, latencies, status="ok"):
        samples = tuple(
            Sample(x.id, i, i == 0, 0, 1, "", "wall", s, s, 1, None, None, 7, 1, 1, 0) for i, s in enumerate(latencies)
        )
        return CellResult(x, status, "", samples, None, None, "e")

    ar, dlm = cell(LLAMA_8B, "hf", (1, 8, 8)), cell(LLADA_8B, "hf", (1, 8, 8), commit="threshold", threshold=0.9)
    results = [result(ar, [99.0, 1.0, 2.0, 6.0]), result(dlm, [99.0, 3.0]), result(dlm, [1.0, 1.0], "oom")]
    found = measured_cells(results, {"llama": LLAMA_8B, "llada": LLADA_8B}, H200)
    assert {k: [(r.latency_s, r.forwards) for r in rows] for k, rows in found.items()} == {
        "hf/autoregressive": [(2.0, 7.0)],  # the warm-up does not count
        "hf/masked_diffusion": [(3.0, 7.0)],
    }


def test_what_cannot_be_calibrated():
    rows = _cells(LLADA_8B)[:2]
    with pytest.raises(ValueError, match="not enough values"):
        calibrate([])
    with pytest.raises(AssertionError, match="invalid latency"):
        calibrate([replace(rows[0], latency_s=0.0)])
    with pytest.raises(ValueError, match="too many values"):
        calibrate([rows[0], replace(rows[1], hardware=A100)])
    alone = calibrate(rows)
    assert alone.median_error is None
    with pytest.raises(AssertionError, match="one group"):
        estimate(alone, rows[0].cell, LLADA_8B, H200)


def _studied(folder):
    """The cells of a study on the H200, by engine and sampler."""
    run = read_run(Path(__file__).parents[2] / "docs/study" / folder)
    known, _ = architectures(dict.fromkeys(c.model for c in run.cells))
    return measured_cells(run.results, known, H200)


def _on_h200(label):
    return lambda: models_8b.measured()[label]


def _native(sampler):
    return lambda: _studied("h200-native")[f"native/{sampler}"]


@pytest.mark.parametrize(
    ("table", "key", "median", "p90"),
    [
        (_on_h200("LLaDA, official code"), None, 0.02, 0.06),
        (_on_h200("LLaDA, plain transformers"), "hf/masked_diffusion", 0.05, 0.30),
        (_on_h200("LLaMA, transformers generate"), "hf/autoregressive", 0.03, 0.20),
        (_native("masked_diffusion"), "native/masked_diffusion", 0.02, 0.09),
        (_native("autoregressive"), "native/autoregressive", 0.02, 0.05),
    ],
)
def test_the_h200_cells(table, key, median, p90):
    """Errors on the groups left out stay as documented, and the defaults are what the fit says."""
    found = calibrate(table())
    assert found.median_error < median
    assert found.p90_error < p90
    if key:
        engine, sampler = key.split("/")
        default = corrected.efficiencies_for(replace(table()[0].cell, engine=engine, sampler=sampler))
        for name in ("matrix", "bandwidth", "attention", "host_s"):
            assert getattr(default, name) == pytest.approx(getattr(found.efficiencies, name), rel=0.01)
    for row in table():
        assert corrected.floor_s(row.cell, row.architecture, H200) < row.latency_s
