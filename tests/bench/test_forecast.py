"""Plans with predictions, and calibration from a run folder: by hand where possible, else from real H200 cells."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from dlmbench.bench.forecast import Machine, RunCost, forecast_run, generations_of, run_cost
from dlmbench.errors import BenchError
from dlmbench.experiment import load
from dlmbench.experiment import plan as grid
from dlmbench.measure.protocol import plan_repetitions
from dlmbench.results import read_run
from dlmbench.roofline import corrected, memory
from dlmbench.roofline.calibrate import TRANSFER_SD, calibrate_run, load_calibration
from dlmbench.roofline.hardware import find
from dlmbench.roofline.models_8b import LLADA_8B, LLAMA_8B
from dlmbench.roofline.predict import predict
from dlmbench.types import Efficiencies, Plan, ProtocolSettings, Sample
from support.experiments import GOOD, H200_RUN
from support.program import fails, run

ROOT = Path(__file__).parents[2]

H200 = find("H200")


@pytest.fixture(autouse=True)
def no_network_and_an_empty_cache(monkeypatch, tmp_path):
    """Whatever is in the cache of this machine, and whoever asks the hub fails."""
    from dlmbench.models import hub

    def cached(*_: object) -> None:
        return None

    def fetch(*_: object) -> Path:
        raise AssertionError("a forecast asked the network")

    monkeypatch.setattr(hub, "cached", cached)
    monkeypatch.setattr(hub, "fetch", fetch)


@pytest.fixture(scope="module")
def calibrated():
    return calibrate_run(read_run(H200_RUN))


def planned(text: str, tmp_path: Path) -> Plan:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return grid.expand(load.load(path, load.parse_overrides()))


# ---------------------------------------------------------------- predictions


def test_the_published_pair_is_predicted_without_its_files(tmp_path):
    text = GOOD.replace("llama, source: tiny, weights: random", "llama, source: meta-llama/Meta-Llama-3-8B")
    text = text.replace("llada, source: tiny, weights: random", "llada, source: someone/else-7b")
    made = predict(planned(text, tmp_path), H200)
    assert len(made.plan.predictions) == len(made.plan.cells) == 3
    ar, *others = made.plan.cells
    want = corrected.predict(ar, LLAMA_8B, H200)
    assert made.of(ar) == want
    assert want.latency_s is not None
    assert all(made.of(c).latency_s is None and made.fits(c) is None for c in others)
    assert any("d: no prediction: config.json is not here" in note for note in made.notes)


def test_what_one_engine_s_times_missed_is_not_said_of_the_other(tmp_path):
    """A later run took longer than expected of plain transformers; nothing like it is known of the native engine."""
    known = GOOD.replace("llama, source: tiny", "llama, source: meta-llama/Meta-Llama-3-8B")

    def notes(engines: str) -> list[str]:
        plan = planned(known.replace("  samplers:", f"  engine: {engines}\n  samplers:"), tmp_path)
        return list(predict(plan, H200).notes)

    assert not any("times as long" in note for note in notes("[native]"))
    for engines in ("[hf]", "[hf, native]"):
        (missed,) = (note for note in notes(engines) if "times as long" in note)
        assert missed.startswith("hf/autoregressive, hf/masked_diffusion: ")
    for engine in ("hf", "native"):
        assert any(n.startswith(f"{engine}/") and "calibrate on your own" in n for n in notes(f"[{engine}]"))


def test_a_config_json_that_is_here_decides(tmp_path):
    """A folder with half the layers is predicted as such, and a broken one is named, not guessed."""
    from dlmbench.models.families import llama

    folder = tmp_path / "m"
    folder.mkdir()
    text = GOOD.replace("llama, source: tiny, weights: random", f"llama, source: {folder}")
    content = {**llama.KNOWN["8b"], "num_hidden_layers": 16}
    (folder / "config.json").write_text(json.dumps(content))
    plan = planned(text, tmp_path)
    made = predict(plan, H200)
    assert made.of(plan.cells[0]).peak_bytes == memory.split(plan.cells[0], llama.architecture(content)).total
    for broken in ("{", "[]", json.dumps({**content, "num_attention_heads": 0}), json.dumps({"model_type": "llama"})):
        (folder / "config.json").write_text(broken)
        made = predict(plan, H200)
        assert made.of(plan.cells[0]).latency_s is None
        assert any(note.startswith("a: no prediction: ") for note in made.notes)


def test_what_fits_is_the_device_s_memory():
    cells = tuple(r.cell for r in read_run(H200_RUN).results)
    largest = max(memory.split(c, LLAMA_8B if "llama" in c.model.key else LLADA_8B).total for c in cells)
    for spare, answer in ((1, True), (-1, False)):
        made = predict(Plan(cells), replace(H200, memory_bytes=float(largest + spare)))
        assert all(made.fits(c) for c in cells) is answer


def test_predicted_memory_is_what_the_h200_measured():
    """Nothing is fitted to it: weights, cache, logits and activations from shapes alone, against torch's own peak."""
    measured = {r.cell: r.memory.peak_allocated_bytes for r in read_run(H200_RUN).results if r.memory}
    made = predict(Plan(tuple(measured)), H200)
    assert len(measured) >= 22
    for cell, peak in measured.items():
        assert made.of(cell).peak_bytes == pytest.approx(peak, rel=0.02), cell.label


def test_the_bill_by_hand(tmp_path):
    """3 warm-ups, 5 pilots, 10 more over one later round with one warm-up, two passes: 21 generations; noisy 111."""
    steady = ProtocolSettings(warmup=3, pilot=5, min_repeats=10, max_repeats=100, max_time_s=300, rounds=2)
    assert generations_of(0.1, steady) == 3 + 5 + 10 + 1 + 2
    assert generations_of(0.1, replace(steady, fresh_process_per_round=True)) == 3 + 5 + 10 + 3 + 2
    # 5 pilots of 50 s leave 50 s of 300: one more. Of 100 s they leave none, and no second round.
    assert generations_of(50.0, steady) == 3 + 5 + 1 + 1 + 2
    assert generations_of(100.0, steady) == 3 + 5 + 2
    made = predict(planned(GOOD, tmp_path), H200)
    one = sum(p.latency_s for p in made.plan.predictions)
    total = run_cost(made, steady)
    assert total.low_s == pytest.approx(21 * one)
    assert total.high_s == pytest.approx(111 * one)
    assert total.money(36.0) == pytest.approx((0.21 * one, 1.11 * one))
    small = replace(made, hardware=replace(H200, memory_bytes=1.0))
    assert run_cost(small, steady) == RunCost(0.0, 0.0, 3, 0)


@pytest.mark.parametrize("latency_s", [0.01, 30.0, 45.0, 200.0])
@pytest.mark.parametrize("rounds", [1, 2, 4])
@pytest.mark.parametrize("fresh", [False, True])
def test_the_bill_counts_what_the_protocol_does(latency_s, rounds, fresh):
    """Every visit of a cell of steady latency, as the run makes them."""
    settings = ProtocolSettings(rounds=rounds, min_repeats=7, fresh_process_per_round=fresh)
    done: list[Sample] = []
    for number in range(rounds):
        is_new = fresh or number == 0
        while not (visit := plan_repetitions(done, settings, number, fresh_process=is_new)).is_empty:
            is_new = False
            for is_warmup, first, count in (
                (True, visit.first_warmup_index, visit.warmups),
                (False, visit.first_index, visit.repetitions),
            ):
                made = ("c", is_warmup, number, 1, "", "wall", latency_s, latency_s, 1, None, None, 1, 1, 1, 0)
                done += [Sample(made[0], first + i, *made[1:]) for i in range(count)]
    assert generations_of(latency_s, settings) == len(done) + 2


def test_a_rule_without_a_schedule_has_no_time_and_is_counted(tmp_path):
    text = GOOD.replace("steps: [4, 8]", "commit: [threshold], threshold: [0.9]")
    made = predict(planned(text, tmp_path), H200)
    open_ = made.plan.cells[-1]
    assert made.of(open_).latency_s is None
    assert made.of(open_).floor_s is not None
    assert run_cost(made, ProtocolSettings()).without_time == 1


# ---------------------------------------------------------------- the command line


def test_plan_shows_predictions_only_when_asked(capsys, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(GOOD)
    plain = run(capsys, "plan", "--config", path)[1]
    assert "latency" not in plain
    code, out, _ = run(capsys, "plan", "--config", path, "--hardware", "nvidia h200", "--price", 2)
    assert code == 0
    assert "on H200, predicted" in out
    assert re.search(r"tokens/s .* memory GB .* fits .* per M tokens", out)
    assert out.count("│  yes │") == 3
    assert "at 2 per GPU hour" in out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--hardware", "h20O"], "h20O ... H200"),
        (["--hardware", "A100"], "A100 ... Which one"),
        (["--price", "2"], "--price ... --hardware"),
        (["--calibration", "x.json"], "--calibration ... --hardware"),
        (["--hardware", "h200", "--price", "cheap"], "price"),
        (["--hardware", "h200", "--price", "-1"], "--price"),
        (["--hardware", "h200", "--price", "nan"], "--price"),
        (["--hardware", "h200", "--calibration", "/nowhere/x.json"], "/nowhere/x.json ... calibrate"),
        (["--hardware", "h200", "--hardware_file", "/nowhere/x.yaml"], "/nowhere/x.yaml"),
    ],
)
def test_plan_refuses_in_one_line(capsys, tmp_path, options, says):
    path = tmp_path / "c.yaml"
    path.write_text(GOOD)
    fails(capsys, "plan", "--config", path, *options, says=says)


def test_the_full_grid_is_predicted_at_once_and_without_what_is_slow():
    """All of the 144 cells in well under two seconds of computing; what else takes time is importing."""
    experiment = load.load(ROOT / "config/experiments_full.yaml", load.parse_overrides())
    plan = grid.expand(experiment)
    start = time.process_time()
    made = predict(plan, H200)
    run_cost(made, experiment.protocol)
    assert time.process_time() - start < 1
    assert all(p.latency_s for p in made.plan.predictions)
    command = ["plan", "--config", "config/experiments_full.yaml", "--hardware", "h200"]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "dlmbench", *command], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "transformers", "scipy", "numpy", "pandas", "matplotlib"}


# ---------------------------------------------------------------- calibration of a run


def test_the_h200_study_is_predicted_within_the_targets(calibrated):
    """Errors on lengths left out: under 10% in the median and 25% at the 90th percentile, over all 30 timed cells."""
    assert calibrated.hardware == H200
    assert {c.label: c.cells for c in calibrated.calibrations} == {"hf/autoregressive": 9, "hf/masked_diffusion": 21}
    for c in calibrated.calibrations:
        assert c.median_error < 0.10
        assert c.p90_error < 0.25
    assert not calibrated.notes
    assert not calibrated.findings


def test_every_cell_lies_above_its_floor_and_the_shares_say_how_far(calibrated):
    assert len(calibrated.bounds) == 30
    for b in calibrated.bounds:
        assert b.floor_ratio > 1
        # The floor is the larger share's: both are ratios to the same latency.
        assert max(b.mfu, b.mbu) == pytest.approx(1 / b.floor_ratio)
    # LLaDA, B = 8, N = 1024, 4 steps: 2 FLOPs a weight and position in the body, 4 d a pair and layer, over the peak.
    b = next(
        b for b in calibrated.bounds if b.cell.steps == 4 and (b.cell.batch_size, b.cell.prompt_tokens) == (8, 960)
    )
    flops = 4 * 8 * (2 * 1024 * 6_979_321_856 + 2 * 64 * 4096 * 126_464 + 4 * 4096 * 32 * 1024**2)
    assert b.mfu == pytest.approx(flops / 989.4e12 / b.latency_s, rel=1e-6)


def test_a_cell_below_its_floor_is_an_error_and_not_fitted():
    """The first cell's latencies made a hundredth: no efficiency explains it, and the fit is that of the others."""
    study = read_run(H200_RUN)
    first = study.results[0]
    fast = replace(first, samples=tuple(replace(s, latency_s=s.latency_s / 100) for s in first.samples))
    made = calibrate_run(replace(study, results=(fast, *study.results[1:])))
    assert [(f.code, f.severity, f.cell_id) for f in made.findings] == [("below_floor", "error", first.cell.id)]
    assert made.calibrations[0].cells == 8
    assert made.calibrations[0].median_error < 0.15
    # Said to be of a card with a sixth of the arithmetic, half of the study becomes impossible.
    wrong = calibrate_run(study, "RTX A6000")
    assert len(wrong.findings) >= 15
    assert sum(c.cells for c in wrong.calibrations) + len(wrong.findings) == 30


def test_small_groups_are_said_to_be_small():
    study = read_run(H200_RUN)
    for number, says in ((2, "one model and length"), (9, "2 groups")):
        made = calibrate_run(replace(study, results=study.results[:number]))
        assert any("too small" in note and says in note for note in made.notes), made.notes


def test_what_calibrate_writes_plan_reads(capsys, tmp_path):
    path = tmp_path / "h200.json"
    code, out, err = run(capsys, "calibrate", H200_RUN, "--output", path)
    assert code == 0, err
    assert "held-out median error" in out
    assert "30 measured cells" in out
    assert not err
    document = json.loads(path.read_text())
    assert document["hardware"]["name"] == "H200"
    assert document["environment"]["device"] == "NVIDIA H200"
    assert len(document["cells"]) == 30
    saved = load_calibration(path)
    assert (saved.hardware, saved.run) == ("H200", document["run"])
    fitted = {c["label"]: Efficiencies(**c["efficiencies"]) for c in document["calibrations"]}
    assert saved.efficiencies == fitted
    grid_file = ROOT / "config/experiments_h200_random.yaml"
    for device, carried in (("h200", False), ("h100 sxm", True)):
        code, out, err = run(capsys, "plan", "--config", grid_file, "--hardware", device, "--calibration", path)
        assert code == 0
        assert ("carried over to H100 SXM" in err) is carried
        assert "latency ms [95%]" in out
    plan = grid.expand(load.load(grid_file, load.parse_overrides()))
    cell = plan.cells[0]
    assert predict(plan, H200, saved).of(cell) == corrected.predict(cell, LLAMA_8B, H200, fitted)


def test_intervals_are_those_of_the_errors_left_out_and_wider_on_another_device(capsys, tmp_path):
    path = tmp_path / "h200.json"
    assert run(capsys, "calibrate", H200_RUN, "--output", path)[0] == 0
    saved = load_calibration(path)
    study = read_run(H200_RUN)
    here = predict(Plan(study.cells), H200, saved)
    there = predict(Plan(study.cells), find("H100 SXM"), saved)
    covered = 0
    for result in study.results:
        near, far = (made.estimates[result.cell.id] for made in (here, there))
        assert near.low_s <= here.of(result.cell).latency_s == near.value_s <= near.high_s
        # On another device at least the spread of a move comes in, unless the floor cuts it.
        assert far.high_s / far.value_s > max(near.high_s / near.value_s, 1.96 * TRANSFER_SD)
        covered += near.low_s <= statistics.median(s.latency_s for s in result.timed) <= near.high_s
    assert covered >= 28  # of 30
    # Without a calibration nothing says how wrong the defaults are.
    assert predict(Plan(study.cells), H200).estimates == {}


def test_break_even_is_printed_for_any_device(capsys):
    given = ["plan", "--config", ROOT / "config/experiments_h200_random.yaml", "--break-even"]
    code, out, _ = run(capsys, *given, "--hardware", "rtx 4090")
    assert code == 0
    assert out.count("Break-even k* on RTX 4090") == 4  # whole canvas, and blocks with each cache
    assert "B=32" in out
    fails(capsys, *given, says="--break-even ... --hardware")


# ---------------------------------------------------------------- the device of a run


def environment(device="NVIDIA H200", memory=150e9, cuda="13.0"):
    return replace(read_run(H200_RUN).environment, device=device, memory_bytes=int(memory), cuda=cuda)


def test_a_run_knows_its_device_by_its_own_name_or_by_the_user_s(tmp_path):
    cells = read_run(H200_RUN).cells
    known = {"llama": LLAMA_8B, "llada": LLADA_8B}
    found = forecast_run(cells, known, environment())
    assert found.device == H200
    assert found.expectation.is_seconds
    assert found.expectation.weight(cells[0]) == corrected.predict(cells[0], LLAMA_8B, H200).latency_s
    assert found.too_large == {}
    unknown = forecast_run(cells, known, environment("NVIDIA Next"))
    assert unknown.device is None
    assert not unknown.expectation.is_seconds
    # Half the work, half the weight: whatever the device.
    four, eight = (c for c in cells if c.steps in (4, 8) and (c.batch_size, c.prompt_tokens) == (1, 1984))
    assert unknown.expectation.weight(eight) == pytest.approx(2 * unknown.expectation.weight(four))
    assert forecast_run(cells, known, environment("NVIDIA Next"), Machine("h200")).device == H200
    with pytest.raises(BenchError, match="the device is NVIDIA B200, not H200"):
        forecast_run(cells, known, environment("NVIDIA B200"), Machine("h200"))
    with pytest.raises(BenchError, match="the device is CPU Box, not H200"):
        forecast_run(cells, known, environment("CPU Box", cuda=None), Machine("h200"))


def test_what_should_not_fit_is_judged_by_the_device_s_own_memory_or_the_user_s_row():
    cells = read_run(H200_RUN).cells
    known = {"llama": LLAMA_8B, "llada": LLADA_8B}
    peaks = {c.id: memory.split(c, known[c.model.key]).total for c in cells}
    room = sorted(peaks.values())[len(peaks) // 2]
    too_large = {cell_id for cell_id, peak in peaks.items() if peak > room}
    assert 0 < len(too_large) < len(cells)
    by_device = forecast_run(cells, known, environment(memory=room))
    row = replace(H200, name="Mine", memory_bytes=float(room), aliases=("NVIDIA H200",))
    by_row = forecast_run(cells, known, environment(), Machine(None, (row,)))
    for found, where in ((by_device, "H200"), (by_row, "Mine")):
        assert set(found.too_large) == too_large
        assert all(reason.startswith("predicted not to fit: ") for reason in found.too_large.values())
        assert all(reason.endswith(where) for reason in found.too_large.values())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 9}', "\x00"])
def test_another_file_is_not_a_calibration(capsys, tmp_path, text):
    (tmp_path / "c.yaml").write_text(GOOD)
    path = tmp_path / "no.json"
    path.write_text(text)
    given = ["plan", "--config", tmp_path / "c.yaml", "--hardware", "h200", "--calibration", path]
    fails(capsys, *given, says="no.json ... dlmbench calibrate")


def test_calibrate_refuses_in_one_line(capsys, tmp_path):
    fails(capsys, "calibrate", tmp_path, says="is not a run folder")
    fails(capsys, "calibrate", H200_RUN, "--hardware", "H2000", says="H2000 ... H200")
    fails(capsys, "calibrate", H200_RUN, "--output", tmp_path / "no" / "c.json", says="--output")
    copied = tmp_path / "cpu"
    copied.mkdir()
    records = (H200_RUN / "records.jsonl").read_text().replace("NVIDIA H200", "cpu")
    (copied / "records.jsonl").write_text(records)
    fails(capsys, "calibrate", copied, says="'cpu' ... --hardware")
    lines = [line for line in records.splitlines() if '"kind": "sample"' not in line]
    (copied / "records.jsonl").write_text("\n".join(lines) + "\n")
    fails(capsys, "calibrate", copied, "--hardware", "h200", says="no cell has a timed repetition")


def test_a_device_of_one_s_own(capsys, tmp_path):
    row = {"name": "Box", "bf16_flops": 90e12, "fp32_flops": 45e12, "bandwidth": 600e9, "memory_bytes": 16e9}
    (tmp_path / "d.yaml").write_text(yaml.safe_dump([{**row, "source": "measured", "date": "2026-01"}]))
    (tmp_path / "c.yaml").write_text(GOOD)
    given = ["plan", "--config", tmp_path / "c.yaml", "--hardware", "box", "--hardware_file", tmp_path / "d.yaml"]
    code, out, _ = run(capsys, *given)
    assert code == 0
    assert "on Box, predicted" in out
