"""Figures by the points they show, never by pixels; and that each file is written whatever the run lacks."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import altair as alt
import pandas as pd
import pytest
from PIL import Image

from dlmbench import registry
from dlmbench.analysis.study import analyse
from dlmbench.charts import style
from dlmbench.charts.figure import (
    caption,
    csv_of,
    draw,
    figures_of,
    files_of,
    panel_titles,
    shown_panels,
    specification,
    svg,
)
from dlmbench.charts.frames import interval_columns
from dlmbench.models.loading import architecture_of
from dlmbench.report import document
from dlmbench.report.answer import answer_of
from dlmbench.report.source import Source
from dlmbench.results import read_run
from dlmbench.roofline.break_even import break_even_surface
from dlmbench.roofline.hardware import find
from dlmbench.types import CommitOrder
from support.synthetic_run import LLADA, LLAMA, baseline_cell, cell, failed, measured, per_text, target_cell, tiny_run

NATS = {4: 2.07, 16: 1.36}
PROMISED = (
    "breakeven_map",
    "energy_per_token",
    "latency_vs_steps",
    "measured_vs_roofline",
    "memory_heatmap",
    "pareto_frontier",
    "quality_metrics_vs_steps",
    "quality_vs_steps",
    "throughput_at_equal_memory",
    "throughput_by_batch_size",
    "throughput_vs_batch_size",
    "time_to_text",
)
NAMES = registry.names("figures")
RUN = tiny_run(batches=(1, 4), blocks=(None,), steps=(4, 16, 64), repetitions=12)
STUDY = analyse(RUN, draws=200)


def figure(name: str) -> ModuleType:
    return registry.load("figures", name)


def frame_of(name: str) -> pd.DataFrame:
    return figure(name).points(RUN, STUDY)


def rows_of(spec: dict) -> list[dict]:
    """The rows that a chart draws."""
    return [row for rows in spec["datasets"].values() for row in rows]


def svg_of(name: str, frame: pd.DataFrame) -> str:
    return svg(specification(figure(name), frame))


def marks_of(drawn: str) -> int:
    """How many layers of a drawing have at least one mark."""
    return len(re.findall(r'class="mark-(?:symbol|rect|line|rule) role-mark[^>]*><(?:path|line)', drawn))


def test_the_folder_is_the_list_and_each_figure_has_a_title():
    assert set(PROMISED) < set(NAMES)
    for name in NAMES:
        assert registry.summary("figures", name)


def test_figures_with_an_order_come_first_then_the_others_by_name():
    found = [f.name for f in figures_of(RUN, STUDY)]
    with_order = [name for name in found if hasattr(figure(name), "ORDER")]
    orders = [figure(name).ORDER for name in with_order]
    assert orders == sorted(set(orders))
    assert with_order[:3] == ["pareto_frontier", "latency_vs_steps", "quality_vs_steps"]
    assert found == with_order + [name for name in NAMES if name not in with_order]


def test_latency_points():
    frame = frame_of("latency_vs_steps")
    assert frame["kind"].value_counts().to_dict() == {"curve": 6, "baseline": 2, "break_even": 2, "fit": 2}
    curve = frame[(frame["kind"] == "curve") & (frame["batch_size"] == 1)]
    expected = [p.latency.median for p in STUDY.curves[0].points]
    assert curve["latency_s"].tolist() == expected
    assert (curve["latency_low_s"] <= curve["latency_s"]).all()
    assert (curve["latency_s"] <= curve["latency_high_s"]).all()
    marks = frame[frame["kind"] == "break_even"].set_index("batch_size")["steps"]
    assert marks[1] == pytest.approx(15, rel=0.02)
    fit = frame[(frame["kind"] == "fit") & (frame["batch_size"] == 1)].iloc[0]
    line = STUDY.curves[0].break_even
    assert (fit["intercept_s"], fit["slope_s"]) == (line.intercept_s, line.slope_s)
    assert (fit["steps_low"], fit["steps_high"]) == (4, 64)
    drawn = [r for r in rows_of(specification(figure("latency_vs_steps"), frame)) if r["kind"] == "fit"]
    assert len(drawn) == 2 * 24
    assert {r["steps"] for r in drawn} >= {4, 64}
    for row in drawn[:24]:
        assert row["latency_s"] == pytest.approx(line.intercept_s + line.slope_s * row["steps"], rel=1e-4)


def test_commitment_points_are_the_traced_text_of_each_setting_once():
    result = RUN.results[-1]
    order = CommitOrder(result.cell.id, 3, 2, (1, 2, 2, 1), (0.9, 0.4, 0.6, 0.8))
    traced = replace(RUN, results=(replace(result, order=order), RUN.results[0]))
    frame = figure("commitment_order").points(traced, STUDY)
    assert frame["forward"].tolist() == [1, 2, 2, 1]
    assert frame["confidence"].tolist() == [0.9, 0.4, 0.6, 0.8]
    assert frame["position"].tolist() == [0, 1, 2, 3]
    drawn = specification(figure("commitment_order"), frame)
    assert len(panel_titles(drawn)) == 1
    assert "probability when committed" in svg(drawn)
    assert frame_of("commitment_order")["note"].tolist() == ["no diffusion cell was traced"]
    random = tiny_run(batches=(1,), blocks=(None,), steps=(4,), weights="random")
    traced = replace(random, results=tuple(replace(r, order=replace(order, cell_id=r.cell.id)) for r in random.results))
    frame = figure("commitment_order").points(traced, analyse(traced, draws=10))
    assert frame["note"].tolist() == ["the weights are random, so quality means nothing"]


def test_quality_points_appear_once_for_all_batch_sizes():
    frame = frame_of("quality_vs_steps")
    likelihood = frame[frame["metric"] == "likelihood"]
    assert likelihood["kind"].value_counts().to_dict() == {"curve": 3, "baseline": 1, "parity": 1}
    assert frame["metric"].iloc[0] == "likelihood"
    assert set(frame["metric"]) == {"likelihood"}
    others = frame_of("quality_metrics_vs_steps")
    assert set(others["metric"]) == {m.name for m in STUDY.metrics} - {"likelihood"}
    truth = others[others["kind"] == "truth"]
    assert truth["metric"].tolist() == ["oracle_log_prob"]  # a line beside the models, not a metric of theirs
    values = likelihood[likelihood["kind"] == "curve"]["value"].tolist()
    assert values == [p.quality_in("likelihood").value for p in STUDY.curves[0].points]
    assert likelihood[likelihood["kind"] == "parity"]["note"].tolist() == ["as good from K: not up to 64"]


def test_parity_has_a_range_down_to_the_smallest_step_count_that_is_not_excluded():
    # The margin is ln 1.1 = 0.095 above the baseline's 0.923 nats: 1.018.
    clear = tiny_run(batches=(1,), blocks=(None,), steps=(4, 16, 64), nats={None: {4: 2.0, 16: 0.8, 64: 0.8}})
    close = tiny_run(batches=(1,), blocks=(None,), steps=(4, 16, 64), nats={None: {4: 2.0, 16: 1.018, 64: 0.8}})
    rows = []
    for run in (clear, close):
        frame = figure("quality_vs_steps").points(run, analyse(run))
        rows.append(frame[(frame["kind"] == "parity") & (frame["metric"] == "likelihood")].iloc[0])
    sure, unsure = rows
    assert (sure["steps"], sure["steps_low"], sure["steps_high"]) == (16, 16, 16)
    assert sure["note"] == "as good from K: 16"
    # 64 is what can be shown, 16 is what may be true.
    assert (unsure["steps"], unsure["steps_low"], unsure["steps_high"]) == (64, 16, 64)
    assert unsure["note"] == "as good from K: 64 (perhaps 16)"


def test_pareto_points_are_the_paired_gains_of_the_verdict_and_the_front_is_right():
    frame = frame_of("pareto_frontier")
    one = frame[frame["batch_size"] == 1].set_index("steps", drop=False)
    assert (one["unit"] == "nats/token").all()
    parity = STUDY.curves[0].headline().parity
    assert (one["margin"] == parity.margin).all()
    for point in parity.points:
        row = one.loc[float(point.steps)]
        assert (row["gain"], row["gain_low"], row["gain_high"]) == (point.gap.value, point.gap.low, point.gap.high)
    base = one[one["kind"] == "baseline"].iloc[0]
    assert base["gain"] == 0
    assert pd.isna(base["gain_low"])
    assert (one[one["kind"] == "curve"]["gain"] < 0).all()  # of a negative likelihood: fewer nats are a gain
    # Fast and bad (K=4), and the baseline, which beats K=16 and K=64 in both.
    assert sorted(one[one["is_on_front"]]["kind"]) == ["baseline", "curve"]
    assert bool(one.loc[4.0, "is_on_front"])


def test_pareto_has_only_panels_with_a_curve():
    lone = measured(baseline_cell(16), [0.3] * 12)
    run = replace(RUN, cells=(*RUN.cells, lone.cell), results=(*RUN.results, lone))
    frame = figure("pareto_frontier").points(run, analyse(run, draws=20))
    assert set(frame["batch_size"]) == {1, 4}
    # A single step count is not a curve either, where there are curves.
    single = [c.id for c in run.cells if c.batch_size == 4 and c.steps in (4, 16)]
    run = replace(run, results=tuple(failed(r.cell) if r.cell.id in single else r for r in run.results))
    frame = figure("pareto_frontier").points(run, analyse(run, draws=20))
    assert set(frame["batch_size"]) == {1, 4}
    spec = specification(figure("pareto_frontier"), frame)
    assert [title.rpartition("batch ")[2] for title in panel_titles(spec)] == ["1"]
    assert ">gain [nats/token]<" in svg(spec)


def test_break_evens_are_the_curves_own_and_predicted_only_for_a_known_device():
    frame = frame_of("breakeven_map")
    assert frame["kind"].value_counts().to_dict() == {"measured": 2, "parity": 2}  # this run is of a CPU
    own = {c.batch_size: c.break_even for c in STUDY.curves}
    for row in frame[frame["kind"] == "measured"].itertuples():
        line = own[row.batch_size]
        assert (row.steps, row.steps_low, row.steps_high) == (line.steps, line.low, line.high)
    # A model known by its name alone has a shape, hence predictions on a device with a data sheet.
    named = tiny_run(batches=(1, 4), blocks=(None,), steps=(4, 16, 64), repetitions=12, weights="random")
    gpu = replace(named, environment=replace(RUN.environment, device="NVIDIA H200"))
    study = analyse(gpu, draws=200)
    frame = figure("breakeven_map").points(gpu, study)
    predicted = frame[frame["kind"] == "predicted"].set_index("batch_size")["steps"]
    assert sorted(predicted.index) == [1, 2, 4, 8, 16, 32, 64]
    assert set(frame[frame["kind"] == "predicted"]["device"]) == {"H200"}
    baseline, target = study.baselines[0].cell, study.curves[0].points[0].cell
    known = [(c, architecture_of(c.model)) for c in (baseline, target)]
    (at_8,) = break_even_surface(*known, find("H200"), [(64, 64, 8)])
    assert predicted[8] == at_8.steps
    drawn = specification(figure("breakeven_map"), frame)
    assert {r["kind"] for r in rows_of(drawn)} == {"predicted", "measured"}
    # What is read off is a number of steps that one can choose.
    exact = {(r["kind"], r["batch_size"]): r["steps"] for r in rows_of(drawn)}
    assert any(steps % 1 for steps in exact.values())
    for row in rows_of(drawn):
        assert row["tooltip_break_even"].split()[0] == str(int(exact[row["kind"], row["batch_size"]]))
    text = figure("breakeven_map").caption(frame)
    assert "Filled marks: measured" in text
    assert "Open marks" not in text
    assert "predicted for the H200" in text
    assert "default efficiencies, fitted to runs on H200s" in text


def test_a_sampler_that_chooses_its_steps_has_a_place():
    adaptive = cell(LLADA, (("block_length", None), ("commit", "threshold"), ("threshold", 0.9)))
    scores = per_text(adaptive, "likelihood", [1.1] * 64)
    run = replace(
        RUN,
        cells=(*RUN.cells, adaptive),
        results=(*RUN.results, measured(adaptive, [0.05] * 12)),
        text_scores=(*RUN.text_scores, *scores),
    )
    study = analyse(run, draws=20)
    frame = figure("pareto_frontier").points(run, study)
    row = frame[frame["kind"] == "other"].iloc[0]
    own = {t.prompt_index: t for t in run.text_scores if t.cell_id == baseline_cell().id and t.metric == "likelihood"}
    mean = sum(t.total / t.weight for t in own.values()) / len(own)
    assert (row["latency_s"], row["gain"]) == (0.05, pytest.approx(mean - 1.1))
    assert row["gain_low"] < row["gain"] < row["gain_high"]
    assert bool(row["is_on_front"])
    for name in ("pareto_frontier", "throughput_vs_batch_size", "throughput_by_batch_size"):
        rows = rows_of(specification(figure(name), figure(name).points(run, study)))
        assert any(r["kind"] != "baseline" and r.get("steps") is None for r in rows)
        assert svg(specification(figure(name), figure(name).points(run, study))).startswith("<svg")
    assert "1 setting without a fixed number of steps" in " ".join(answer_of(study).notes)


def test_throughput_points_are_equal_in_both_figures():
    lines, bars = frame_of("throughput_vs_batch_size"), frame_of("throughput_by_batch_size")
    pd.testing.assert_frame_equal(lines, bars)
    row = lines[(lines["steps"] == 16) & (lines["batch_size"] == 4)].iloc[0]
    assert row["tokens_per_s"] == pytest.approx(4 * 64 / (0.16 * 4**0.8), rel=0.02)
    # Side by side at one K, the largest where S_parity is not known.
    drawn = rows_of(specification(figure("throughput_by_batch_size"), bars))
    assert {(r["series"], r["batch_size"]) for r in drawn} == {
        (s, b) for s in ("tiny-llama (autoregressive)", "tiny-llada") for b in (1, 4)
    }
    assert set(bars["compared_steps"]) == {64}


def test_memory_is_the_largest_of_a_shape_and_failures_are_kept():
    lost = {target_cell(k, None, 4).id for k in (4, 16, 64)}
    partly = target_cell(64, None, 1).id
    results = tuple(failed(r.cell) if r.cell.id in lost | {partly} else r for r in RUN.results)
    frame = figure("memory_heatmap").points(RUN, analyse(replace(RUN, results=results), draws=20))
    kinds = frame.set_index(["series", "batch_size"])["kind"].to_dict()
    assert kinds == {
        ("tiny-llama", 1): "ok",
        ("tiny-llama", 4): "ok",
        ("tiny-llada", 1): "some_oom",
        ("tiny-llada", 4): "oom",
    }
    peaks = frame.set_index(["series", "batch_size"])["peak_bytes"]
    assert peaks["tiny-llada", 1] == 209 << 20
    assert pd.isna(peaks["tiny-llada", 4])
    assert "OOM: out of memory" in figure("memory_heatmap").caption(frame)
    assert "A star: some step counts ran out of memory" in figure("memory_heatmap").caption(frame)
    drawn = svg_of("memory_heatmap", frame)
    assert all(f">{label}<" in drawn for label in ("203", "209*", "OOM"))
    assert "out of memory" not in figure("memory_heatmap").caption(frame_of("memory_heatmap"))


def test_lengths_at_which_only_the_baseline_was_timed_are_not_compared():
    run = read_run(COMMITTED[0].parent / "tasks")
    frame = figure("throughput_by_batch_size").points(run, analyse(run, draws=20))
    assert 128 in set(frame["new_tokens"])
    spec = specification(figure("throughput_by_batch_size"), frame)
    titles = {row["panel"].partition(", K")[0] for row in rows_of(spec)}
    assert titles == {f"{p} prompt tokens" for p in (132, 680, 894)}
    assert "In all panels: 256 new tokens." in caption(figure("throughput_by_batch_size"), frame, spec)


def test_a_predicted_line_ends_where_no_step_breaks_even():
    run = read_run(COMMITTED[0])
    frame = figure("breakeven_map").points(run, analyse(run, draws=20))
    assert frame["steps"].min() < 1
    drawn = rows_of(specification(figure("breakeven_map"), frame))
    assert min(row["steps"] for row in drawn if row["kind"] == "predicted") >= 1


def test_in_the_same_memory_only_the_largest_batches_are_drawn():
    run = read_run(COMMITTED[0].parent / "tasks")
    frame = figure("throughput_at_equal_memory").points(run, analyse(run, draws=20))
    drawn = rows_of(specification(figure("throughput_at_equal_memory"), frame))
    assert len(drawn) == frame["is_largest"].eq(True).sum() < len(frame)
    assert {row["batch"] for row in drawn if row["kind"] == "baseline"} == {"B=8", "B=1", "B=32"}


def test_memory_is_drawn_above_the_weights_where_they_are_known():
    run = tiny_run(batches=(1,), blocks=(None,), steps=(4,), weights="random")
    frame = figure("memory_heatmap").points(run, analyse(run, draws=10))
    for row, model in zip(frame.itertuples(), (LLAMA, LLADA), strict=True):
        architecture = architecture_of(replace(model, weights="random"))
        assert row.weight_bytes == 4 * architecture.parameters
    drawn = rows_of(specification(figure("memory_heatmap"), frame))
    expected = (frame["peak_bytes"] - frame["weight_bytes"]) / (1 << 20)
    assert [r["peak"] for r in drawn] == pytest.approx(expected.tolist(), rel=1e-5)
    assert figure("memory_heatmap").caption(frame).startswith("Memory above the weights")
    assert figure("memory_heatmap").caption(frame_of("memory_heatmap")).startswith("Peak memory")


def test_a_caption_says_what_its_picture_leaves_out():
    run = tiny_run(batches=(1, 2, 4, 8, 16))
    module = figure("pareto_frontier")
    frame = module.points(run, analyse(run, draws=20))
    spec = specification(module, frame)
    assert [title.rpartition("batch ")[2] for title in panel_titles(spec)] == ["1", "2", "4", "8", "16"]
    same = "In all panels: 64 prompt tokens, 64 new tokens."
    assert caption(module, frame, spec) == f"{module.caption(frame)} {same} 4 of 5 panels; the report's page has all."
    printed = [batch for batch in (1, 2, 4, 8, 16) if f"batch {batch}<" in svg(spec)]
    assert len(printed) == 4
    assert {1, 16} < set(printed)
    two = frame_of("pareto_frontier")
    assert caption(module, two, specification(module, two)) == f"{module.caption(two)} {same}"


DEGENERATE = {
    "one K": tiny_run(steps=(16,), batches=(1,), repetitions=3),
    "no baseline": tiny_run(roles=("target",), batches=(1,), steps=(4, 8)),
    "only a baseline": tiny_run(roles=("baseline",), batches=(1,)),
    "random weights": tiny_run(weights="random", batches=(1,), steps=(4, 8)),
    "all failed": replace(RUN, results=tuple(failed(r.cell) for r in RUN.results)),
    "nothing": replace(RUN, cells=(), results=(), text_scores=()),
    "baseline failed": replace(
        RUN, results=tuple(failed(r.cell) if r.cell.id == baseline_cell().id else r for r in RUN.results)
    ),
}


@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_runs_are_drawn_or_say_why(case):
    run = DEGENERATE[case]
    study = analyse(run, draws=20)
    for name in NAMES:
        module = figure(name)
        frame = module.points(run, study)
        assert len(frame)
        if (frame["kind"] == "missing").all():
            assert frame["note"].iloc[0]
            continue
        drawn = svg(specification(module, frame))
        assert marks_of(drawn) > 0, name
        if case == "random weights":
            assert "random weights" in drawn


COMMITTED = [Path(__file__).parents[2] / "docs" / "study" / name for name in ("h200-native", "h200-random")]
REPETITION = replace(RUN, text_scores=tuple(t for t in RUN.text_scores if t.metric == "repetition"))


@pytest.mark.parametrize(
    "run", [*map(read_run, COMMITTED), RUN, REPETITION], ids=["native", "random", "likelihood", "repetition"]
)
def test_no_cell_of_a_csv_looks_like_a_formula_or_is_quoted_against_one(run):
    study = analyse(run, draws=20)
    for name in NAMES:
        frame = figure(name).points(run, study)
        for row in csv.DictReader(io.StringIO(csv_of(frame))):
            assert not [cell for cell in row.values() if cell.startswith("'")]
            assert not row.get("unit", "").startswith(("-", "+", "="))


def test_no_cell_of_a_committed_csv_is_quoted_against_a_formula():
    paths = list(COMMITTED[0].parent.glob("*/figures/*.csv"))
    assert paths
    for path in paths:
        cells = [cell for row in csv.reader(path.open(encoding="utf-8", newline="")) for cell in row]
        assert not [cell for cell in cells if cell.startswith("'")]


def test_a_diagnostic_is_no_quality():
    frame = figure("pareto_frontier").points(REPETITION, analyse(REPETITION, draws=20))
    assert frame["note"].tolist() == ["no diffusion cell has a latency and a quality compared with a baseline's"]


INSTALLED = '''"""Wall time, of every cell."""

import altair as alt
import pandas as pd


def points(run, study):
    return pd.DataFrame({"kind": "curve", "weights": "pretrained", "cells": [len(study.cells)]})


def caption(frame):
    return "A figure of another package."


def chart(frame):
    return alt.Chart(frame).mark_bar().encode(x="cells:Q")
'''


def test_a_figure_of_an_installed_package_is_written_and_shown_like_any_other(tmp_path, monkeypatch):
    info = tmp_path / "site" / "more_figures-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: more-figures\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dlmbench.figures]\nanother_name = more_figures_of_time\n")
    (tmp_path / "site" / "more_figures_of_time.py").write_text(INSTALLED)
    monkeypatch.syspath_prepend(tmp_path / "site")
    caches = (registry._modules, registry.load, registry.summary)
    for cached in caches:
        cached.cache_clear()
    try:
        found = Source(RUN, STUDY)
        document.write(found, tmp_path / "report", draw(found.figures, tmp_path / "report"))
        shown = {f.name: f for f in figures_of(RUN, STUDY)}
    finally:
        for cached in caches:
            cached.cache_clear()
    written = {p.name for p in (tmp_path / "report" / "figures").iterdir()}
    assert {"another_name.png", "another_name.pdf", "another_name.csv"} <= written
    text = (tmp_path / "report" / "report.md").read_text()
    assert "A figure of another package." in text
    assert (shown["another_name"].title, shown["another_name"].missing) == ("Wall time", "")
    assert list(shown).index("another_name") >= 6  # after the figures with an ORDER


def test_writes_png_of_a_column_at_300_dpi_pdf_and_csv(tmp_path):
    folder = tmp_path / "figures"
    folder.mkdir()
    (folder / "commitment_order.png").write_bytes(b"of an earlier state")
    figures = draw(figures_of(RUN, STUDY), tmp_path)
    paths = files_of(figures, tmp_path)
    measured_ones = {n for n in NAMES if (frame_of(n)["kind"] != "missing").any()}
    assert len(measured_ones) >= 9
    assert {p.name for p in paths} == {f"{n}.{end}" for n in measured_ones for end in ("png", "pdf", "csv")}
    # Nothing half-written is left, and nothing of a figure that was not measured.
    assert {p.name for p in folder.iterdir()} == {p.name for p in paths}
    for path in paths:
        if path.suffix == ".png":
            with Image.open(path) as picture:
                assert picture.format == "PNG"
                assert picture.width == pytest.approx(3.4 * 300, abs=25)
                assert picture.info["dpi"] == pytest.approx((300, 300), abs=1)
        if path.suffix == ".pdf":
            assert path.read_bytes().startswith(b"%PDF")
    frame = pd.read_csv(folder / "latency_vs_steps.csv")
    assert frame["latency_s"].dropna().tolist() == pytest.approx(
        frame_of("latency_vs_steps")["latency_s"].dropna().tolist(), rel=1e-5
    )


def test_one_failing_figure_is_reported_and_stops_no_other(tmp_path, monkeypatch, caplog):
    def broken(run, study):
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(figure("memory_heatmap"), "points", broken)
    figures = draw(figures_of(RUN, STUDY), tmp_path)
    assert caplog.messages == ["figure memory_heatmap: it could not be drawn (ZeroDivisionError: planted)"]
    expected = {n for n in NAMES if n != "memory_heatmap" and (frame_of(n)["kind"] != "missing").any()}
    assert {f.name for f in figures if f.picture} == expected


def test_a_chart_that_cannot_be_rendered_stops_no_other(tmp_path, monkeypatch, caplog):
    wrong = {"mark": {"type": "no such mark"}, "encoding": {}, "datasets": {}}
    monkeypatch.setattr(figure("memory_heatmap"), "chart", lambda frame: wrong)
    figures = {f.name: f for f in draw(figures_of(RUN, STUDY), tmp_path)}
    assert "could not be drawn" in figures["memory_heatmap"].missing
    assert "memory_heatmap" in caplog.text
    assert figures["latency_vs_steps"].picture == "figures/latency_vs_steps.png"


def test_every_chart_is_valid_altair(monkeypatch):
    """Specifications are made without validation, which takes seconds."""
    for name in NAMES:
        frame = frame_of(name)
        if (frame["kind"] != "missing").any():
            alt.Chart.from_dict(specification(figure(name), frame))


def test_interval_columns_keep_the_unit_last():
    assert interval_columns("latency_s") == ("latency_s", "latency_low_s", "latency_high_s")
    assert interval_columns("tokens_per_s") == ("tokens_per_s", "tokens_per_s_low", "tokens_per_s_high")


def test_of_many_panels_four_are_shown_and_the_page_has_all():
    run = tiny_run(
        batches=(1,), blocks=(None,), steps=(4, 16), lengths=[(64, 16 * i) for i in range(1, 11)], scored=False
    )
    shown = {f.name: f for f in figures_of(run, analyse(run, draws=10))}["latency_vs_steps"]
    titles = [f"{16 * i} new tokens" for i in range(1, 11)]
    assert shown.panels == titles
    assert shown_panels(shown.spec) == [titles[i] for i in (0, 3, 6, 9)]
    spec = json.loads(shown.plot)
    assert spec["usermeta"] == {"shown": shown_panels(shown.spec)}
    assert {r["panel"] for r in rows_of(spec)} == set(titles)
    assert shown.caption.endswith(
        "In all panels: 64 prompt tokens, batch 1. 4 of 10 panels; the report's page has all."
    )


def test_the_shown_panels_have_the_batch_sizes_that_were_measured():
    lengths = [(16 * i, 64) for i in range(1, 4)]
    run = tiny_run(batches=(1, 2, 8), blocks=(None,), steps=(4, 16), lengths=lengths, scored=False)
    shown = {f.name: f for f in figures_of(run, analyse(run, draws=10))}["latency_vs_steps"]
    assert len(shown.panels) == 9
    chosen = shown_panels(shown.spec)
    assert {title.rpartition(", ")[2] for title in chosen} == {"batch 1", "batch 2", "batch 8"}
    assert chosen == [title for title in shown.panels if title in chosen]


SERIES_COLOURS = {*style.COLOURS, *style.RAMP}
HOSTILE = ("a$b_c^{d}$", "<a href='javascript:x'>m</a>", "汉字模型", "m" * 180, "a.b[0]'\"\\n{{x}}")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_drawn_as_they_are_written(name):
    for plugin in ("latency_vs_steps", "pareto_frontier", "throughput_at_equal_memory", "memory_heatmap"):
        frame = frame_of(plugin)
        frame = frame.assign(series=frame["series"].str.replace("tiny-llada", name, regex=False))
        drawn = ElementTree.fromstring(svg_of(plugin, frame))
        texts = ["".join(e.itertext()) for e in drawn.iter("{http://www.w3.org/2000/svg}text")]
        # Lines are broken and cut to the width of the column.
        assert any(text.strip("…") and name.startswith(text.rstrip("…")[:6]) for text in texts), plugin
        assert float(drawn.get("width")) == pytest.approx(3.4 * 72, abs=6)


def test_the_same_series_has_the_same_colour_and_shape_everywhere():
    run = tiny_run(batches=(1, 4), blocks=(None, 16, 32), steps=(4, 16), nats={None: NATS, 16: NATS, 32: NATS})
    # The second setting lacks a figure's data: the third keeps its colour there.
    results = tuple(replace(r, traced=None) if r.cell.knob("block_length") == 16 else r for r in run.results)
    run = replace(run, results=results)
    looks: dict[str, set[tuple[str, str]]] = {}
    for found in figures_of(run, analyse(run, draws=20)):
        for layer in found.spec.get("spec", {}).get("layer", []):
            for channel in ("color", "shape"):
                encoding = layer["encoding"].get(channel, {})
                scale = encoding.get("scale") if encoding.get("field") == "series" else None
                for name, value in zip(scale["domain"], scale["range"], strict=True) if scale else ():
                    looks.setdefault(name, set()).add((channel, value))
    assert set(looks) == {
        "tiny-llama (autoregressive)",
        *(f"tiny-llada, {b}" for b in ("one block", "block 16", "block 32")),
    }
    assert {len(found) for found in looks.values()} == {2}
    assert len(set.union(*looks.values())) == 8


def legends_of(name: str, frame: pd.DataFrame | None = None) -> list[tuple[set[str], list[str]]]:
    """The shapes and the names in each legend of a drawing."""
    drawn = ElementTree.fromstring(svg_of(name, frame_of(name) if frame is None else frame))
    groups = [g for g in drawn.iter("{http://www.w3.org/2000/svg}g") if "role-legend-entry" in (g.get("class") or "")]
    found = []
    for group in groups:
        symbols = [g for g in group.iter() if "role-legend-symbol" in (g.get("class") or "")]
        texts = ["".join(e.itertext()) for e in group.iter("{http://www.w3.org/2000/svg}text")]
        found.append(({p.get("d", "") for s in symbols for p in s.iter("{http://www.w3.org/2000/svg}path")}, texts))
    return found


@pytest.mark.parametrize("name", ["latency_vs_steps", "throughput_vs_batch_size", "throughput_at_equal_memory"])
def test_each_name_is_in_one_legend_and_the_baseline_is_a_star_in_it(name):
    legends = legends_of(name)
    names = [text for _, texts in legends for text in texts]
    assert len(names) == len(set(names))
    assert 'fill="black"' not in svg_of(name, frame_of(name))  # which the page could not turn into a light colour
    ((shapes, _),) = [legend for legend in legends if "tiny-llama (autoregressive)" in legend[1]]
    assert any(shape.count("L") >= 9 for shape in shapes)  # the ten corners of a star


STUDIED = {name: read_run(COMMITTED[0].parent / name) for name in ("h200-native", "h200-x4-native", "tasks")}
STUDIED["scored"] = tiny_run(batches=(1, 4), blocks=(None, 16), steps=(4, 16), lengths=[(64, 64), (960, 32)])


@pytest.mark.parametrize("name", STUDIED)
def test_titles_are_not_cut_and_a_legend_lists_exactly_what_its_panels_draw(name):
    study = analyse(STUDIED[name], draws=20)
    drawn = {f.name: svg(f.spec) for f in figures_of(STUDIED[name], study) if not f.missing}
    for figure_name, text in drawn.items():
        assert "…" not in text, figure_name
        groups = [g for g in ElementTree.fromstring(text).iter() if "mark-" in (g.get("class") or "")]
        looks = {}
        for role in ("role-legend-symbol", "role-mark"):
            shapes = [shape for g in groups if role in g.get("class").split() for shape in g]
            stars = {"star"} if any((shape.get("d") or "").count("L") == 9 for shape in shapes) else set()
            looks[role] = {shape.get(key) for shape in shapes for key in ("fill", "stroke")} & SERIES_COLOURS | stars
        if looks["role-legend-symbol"]:
            assert looks["role-legend-symbol"] == looks["role-mark"], figure_name


def test_predicted_measured_and_extrapolated_break_evens_of_a_setting_have_one_name():
    run = read_run(Path(__file__).parents[2] / "docs/study/h200-native")
    frame = figure("breakeven_map").points(run, analyse(run, draws=50))
    assert {"predicted", "measured", "extrapolated"} <= set(frame["kind"])
    (legend,) = legends_of("breakeven_map", frame)
    assert sorted(legend[1]) == sorted(frame["series"].unique())


def test_the_ends_of_a_curve_are_named_and_three_panels_have_an_axis_each():
    run = tiny_run(batches=(1, 2, 4), blocks=(None,), steps=(4, 16, 64))
    drawn = svg(specification(figure("pareto_frontier"), figure("pareto_frontier").points(run, analyse(run, draws=20))))
    # Each of three panels draws a text twice: as a gap in the lines behind it, and in its colour.
    assert [drawn.count(f">K={k}<") for k in (4, 16, 64)] == [6, 0, 6]
    assert drawn.count(">latency [s] (log scale)<") == 3


def test_titles_that_are_cut_to_the_same_lines_remain_panels_of_their_own():
    long = "m" * 180
    frame = frame_of("memory_heatmap").replace(
        {"series": {"tiny-llama": f"{long}a{long}", "tiny-llada": f"{long}b{long}"}}
    )
    drawn = svg_of("memory_heatmap", frame)
    assert all(f">{label}<" in drawn for label in ("203", "209"))
    titles = [e for e in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}tspan") if e.text]
    assert [title.text[-1] for title in titles] == ["…", "m", "…", "m"]


def test_logarithmic_axes_are_announced_and_bars_begin_at_zero():
    for found in figures_of(RUN, STUDY):
        for layer in found.spec.get("spec", {}).get("layer", []):
            for channel in ("x", "y"):
                encoding = layer["encoding"].get(channel, {})
                scale = encoding.get("scale") or {}
                if scale.get("type") == "log":
                    assert "log scale" in str(encoding["axis"]["title"])
                if layer["mark"]["type"] == "bar" and encoding.get("type") == "quantitative":
                    assert scale.get("zero") is True


def test_dollar_signs_in_names_are_drawn_as_they_are():
    name = r"cost $5 and $6 x $\frac{$"
    frame = frame_of("latency_vs_steps").replace({"series": {"tiny-llada": name}})
    assert name in svg_of("latency_vs_steps", frame).replace("&#36;", "$")


def test_step_counts_without_space_for_a_number_have_no_tick_but_are_on_the_axis():
    axis = style.log2_axis("steps", "K", [2, 4, 8, 16, 32, 128, 256]).to_dict()
    assert axis["axis"]["values"] == [2, 8, 32, 256]
    axis = style.log2_axis("batch_size", "B", [1, 2, 4, 8, 16, 32, 64]).to_dict()
    assert axis["axis"]["values"] == [1, 2, 4, 8, 16, 32, 64]
    crowded = list(range(3, 1000))
    axis = style.log2_axis("steps", "K", crowded).to_dict()
    assert len(axis["axis"]["values"]) <= 7
    low, high = axis["scale"]["domain"]
    assert low < 3
    assert high > 999


def test_an_axis_holds_the_intervals_of_its_column():
    frame = pd.DataFrame({"latency_s": [1.0, 2.0], "latency_low_s": [0.01, 1.0], "latency_high_s": [1.0, 300.0]})
    low, high = style.axis("latency_s", "latency", frame, also=[1000.0]).to_dict()["scale"]["domain"]
    assert low < 0.01
    assert high > 1000


def test_a_map_of_nearly_equal_memory_has_nearly_one_colour():
    frame = frame_of("memory_heatmap")
    spec = specification(
        figure("memory_heatmap"), frame.assign(peak_bytes=[400 << 20, *[410 << 20] * (len(frame) - 1)])
    )
    (scale,) = {json.dumps(v["scale"]["domain"]) for v in values_of(spec, "color") if "scale" in v}
    assert json.loads(scale) == [0, 410]


def values_of(spec: object, key: str) -> list[dict]:
    """Every mapping under `key`, at any depth."""
    if isinstance(spec, list):
        return [v for item in spec for v in values_of(item, key)]
    if not isinstance(spec, dict):
        return []
    own = [spec[key]] if isinstance(spec.get(key), dict) else []
    return own + [v for item in spec.values() for v in values_of(item, key)]
