"""Throughput in the same memory: that of the largest batch of each model that fits, by step count.

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
    if not budgeted:
        return frames.table(COLUMNS, [], "memory was not measured for two models")
    found = pd.concat(budgeted)
    why = "at no lengths is the largest batch that fits known of both models"
    return found if len(_compared(found)) else frames.table(COLUMNS, [], why)


def _compared(frame: pd.DataFrame) -> pd.DataFrame:
    """The largest batches that fit, at lengths at which both models have one."""
    best = frame[frame["is_largest"].eq(True)]
    return best[best.groupby(frames.LENGTHS)["kind"].transform("nunique") > 1]


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
        "Throughput of the largest batch (written) that fits into the same memory, by step count; medians with 95% "
        f"intervals. The memory ({frames.sources(frame)}, weights included): {budgets}. Dashed: the autoregressive "
        "baseline. No mark where a larger batch was not measured, no panel where that leaves one model."
    )


def chart(frame: pd.DataFrame) -> Any:
    """A panel for each pair of lengths."""
    size, unit = frames.memory_unit(frame["peak_bytes"].max())
    best = style.by_shape(_compared(frame))
    best = best.assign(memory=best["peak_bytes"].astype(float) / size, batch=[f"B={b}" for b in best["batch_size"]])
    shown, x = style.steps_axis(best)
    amounts = {"throughput": ("tokens_per_s", "new tokens/s"), "peak_memory": ("memory", unit)}
    shown, tips = style.with_tooltip(shown, "batch_size", "source", "budget", **amounts)
    y = style.axis("tokens_per_s", "throughput [new tokens/s]", shown)
    marks = style.Marks(x, y, style.series_looks(shown), tips)
    baseline, diffusion = style.where("baseline"), style.where("curve")
    layers = [
        *marks.bands(baseline),
        baseline.mark_text(align="right", dy=-6).encode(x=alt.value("width"), y=y, text="batch:N"),
        *marks.curves(diffusion),
        diffusion.mark_text(align="left", dx=6, dy=-4).encode(x=x, y=y, text="batch:N"),
    ]
    return style.panels(layers, shown)
