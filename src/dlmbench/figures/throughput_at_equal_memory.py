"""Throughput against peak memory, batch by batch: what each model achieves in the same memory.

A comparison at equal batch size is unfair to the model that needs less memory: it could take more sequences at once.
Here both have the same budget, and each the largest batch that fits into it.
"""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from dlmbench.analysis.results import Study
from dlmbench.charts import frames, style, throughput
from dlmbench.types import Run

# kind: curve or baseline, and oom for a batch that did not fit. budget_bytes: what both models may use at these
# lengths; budget says why that much. is_largest: the largest batch known to fit into it, where all larger ones that
# were tried are known not to.
COLUMNS = (
    *("model", "steps", "peak_bytes", "source"),
    *frames.interval_columns("tokens_per_s"),
    *("budget_bytes", "budget", "is_largest"),
)
DEVICE = "all of the device's memory: larger batches ran out of it"
TRIED = "the largest peak that both models were measured up to"


def points(run: Run, study: Study) -> pd.DataFrame:
    """Every cell with throughput and peak memory or out of memory, and the largest batch within the budget."""
    rows = []
    for row, summary in frames.cells(study):
        shared = {"model": summary.cell.model.key, "budget": "", **frames.memory_columns(summary)}
        if summary.status == "oom":
            rows.append(row | shared | {"kind": "oom", "source": ""})
        elif summary.throughput is not None and summary.memory is not None:
            rows.append(throughput.as_line(row) | shared)
    if all(row["kind"] == "oom" for row in rows):
        return frames.table(COLUMNS, [], "no cell has both its throughput and its peak memory")
    device = float(run.environment.memory_bytes) if run.environment else None
    frame = frames.table(COLUMNS, rows, "")
    budgeted = [_with_budget(own, device) for _, own in frame.groupby(frames.LENGTHS, sort=False)]
    budgeted = [own for own in budgeted if own["budget_bytes"].notna().any()]
    return pd.concat(budgeted) if budgeted else frames.table(COLUMNS, [], "memory was not measured for two models")


def _with_budget(frame: pd.DataFrame, device_bytes: float | None) -> pd.DataFrame:
    """The rows of one shape with the budget that all models share, and the largest batch of each line in it."""
    if frame["model"].nunique() < 2 or frame["peak_bytes"].isna().all():
        return frame
    # A model that ran out of memory was measured up to its limit; one that did not could use more.
    limited = frame["model"][frame["kind"] == "oom"]
    tops = frame[~frame["model"].isin(limited)].groupby("model")["peak_bytes"].max()
    limit = int(tops.min()) if len(tops) else device_bytes or int(frame["peak_bytes"].max())
    frame = frame.assign(budget_bytes=limit, budget=TRIED if len(tops) else DEVICE)
    lines = frame.groupby(["series", "steps"], sort=False, dropna=False)
    tried = frame.groupby("model")["batch_size"].unique()
    return pd.concat([_with_largest(line, limit, tried[line["model"].iloc[0]]) for _, line in lines])


def _with_largest(line: pd.DataFrame, limit: float, tried: Any) -> pd.DataFrame:
    """A line with its largest batch within `limit`, which is not known where it lacks a larger one that was tried."""
    batch, is_fitting = line["batch_size"], line["peak_bytes"] <= limit
    best = batch[is_fitting].max()
    is_known = not any(b > best for b in set(tried) - set(batch))
    return line.assign(is_largest=is_fitting & (batch == best) & is_known)


def caption(frame: pd.DataFrame) -> str:
    """What is shown, and what the models share."""
    budgets = " or ".join(sorted(b for b in frame["budget"].unique() if b))
    return (
        f"Throughput against peak memory of one generation ({frames.sources(frame)}, weights included), a line through "
        "the batch sizes of each step count (the baseline's smallest and largest are written); medians with 95% "
        "intervals. Rings: the largest batch that fits into the same memory (dashed vertical line: "
        f"{budgets}); no ring where a larger batch was not measured."
    )


def chart(frame: pd.DataFrame) -> Any:
    """A panel for each pair of lengths; colour is K, the shape the sampler's settings."""
    size, unit = frames.memory_unit(frame["peak_bytes"].max())
    shown = style.by_shape(frame[frame["kind"] != "oom"])
    shown = shown.assign(
        x=shown["peak_bytes"].astype(float) / size,
        budget_size=shown["budget_bytes"].astype(float) / size,
        line=throughput.line_names(shown),
    )
    amounts = {"throughput": ("tokens_per_s", "new tokens/s"), "peak_memory": ("x", unit)}
    shown, tips = style.with_tooltip(shown, "source", "budget", **amounts)
    looks, series = throughput.line_looks(shown), style.series_looks(shown)
    looks.shape = series.shape
    looks.shape["legend"] = style.legend(series.domain, symbolFillColor=style.INK, symbolStrokeColor=style.INK)
    lines = [name for name in looks.domain if name not in series.domain]
    looks.color["legend"] = style.legend(lines, values=lines, symbolType="stroke") if lines else None
    x: Any = alt.X("x:Q", title=f"peak memory [{unit}]", scale=alt.Scale(zero=False, padding=12))
    x.axis = alt.Axis(tickCount=4)
    y = style.axis("tokens_per_s", "throughput [new tokens/s]", shown)
    marks = style.Marks(x, y, looks, tips)
    budget = alt.Chart().transform_aggregate(budget_size="max(budget_size)", groupby=["panel"])
    limit = budget.transform_filter("isValid(datum.budget_size)").mark_rule(strokeDash=style.DASHED, color=style.MUTED)
    layers = [
        limit.encode(x=style.of(x, "budget_size")),
        *marks.ends(style.where("baseline"), "batch_size", "B"),
        *marks.curves(alt.Chart(), order="batch_size:Q", detail=["series:N", "line:N"]),
        marks.rings(style.where(also="datum.is_largest")),
    ]
    return style.panels(layers, shown)
