"""Energy per useful token against diffusion steps, the baseline's as a dashed line with its interval.

What a text costs in joules. Latency does not show it: a busy device draws more power than an idle one.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from dlmbench.analysis.results import CellSummary, Study
from dlmbench.charts import frames, style
from dlmbench.types import CellResult, Run

# tokens: useful (up to and including the first end of text) or new (where an end of text means nothing). j_per_token is
# gross, all that the device took; net: without what it takes when idle. windows: of the counter, over all processes.
COLUMNS = (
    *("steps", "tokens"),
    *frames.interval_columns("j_per_token"),
    *("net_j_per_token", "idle_power_w", "windows"),
)
_TOKENS = {
    "useful": "useful token (up to and including the first end-of-text token)",
    "new": "new token (where the end-of-text token has no meaning)",
}


def points(run: Run, study: Study) -> pd.DataFrame:
    """Every cell whose energy was measured. kind: curve, baseline or other."""
    results = {r.cell.id: r for r in run.results}
    rows = [row | _energy(results[summary.cell.id], summary) for row, summary in frames.cells(study) if summary.energy]
    device = run.environment.device if run.environment else "the device"
    why = frames.why_untimed(study, f"{device} has no energy counter that could be read")
    return frames.table(COLUMNS, rows, why)


def _energy(result: CellResult, summary: CellSummary) -> frames.Row:
    """The energy of a token of a cell that was metered."""
    joules = summary.joules_per_useful_token or summary.joules_per_token
    assert joules is not None
    assert summary.energy is not None
    assert summary.latency is not None
    energy = frames.interval_row("j_per_token", joules)
    if result.memory and (idle := result.memory.idle_power_w) is not None:
        share = 1 - idle * summary.latency.median / summary.energy.value
        energy |= {"idle_power_w": idle, "net_j_per_token": joules.value * share}
    return energy | {"tokens": "useful" if summary.useful_tokens else "new", "windows": len(result.energy)}


def caption(frame: pd.DataFrame) -> str:
    """What is shown, which tokens count, and whether idle power is subtracted."""
    per_token = " or ".join(text for kind, text in _TOKENS.items() if kind in set(frame["tokens"]))
    net = "Gross: idle power was not measured, so it is not subtracted."
    if frame["net_j_per_token"].notna().any():
        net = "Dashes without a line: net of idle power."
    return (
        f"Energy of the device per {per_token}, from windows of generations in a row between two refreshes of its "
        "counter: means over processes with 95% intervals, none where one process was metered. "
        f"Dashed: the autoregressive baseline at the same batch size. {net}"
    )


def chart(frame: pd.DataFrame) -> Any:
    """A panel for each pair of lengths and batch size."""
    shown, x = style.steps_axis(style.by_shape_and_batch(frame))
    amounts = {"energy": ("j_per_token", "J/token"), "net_of_idle_power": ("net_j_per_token", "J/token")}
    shown, tips = style.with_tooltip(shown, "windows", **amounts)
    kinds = " or ".join(sorted(set(frame["tokens"]), reverse=True))
    y = style.axis("j_per_token", f"energy [J/{kinds} token]", shown, also=list(shown["net_j_per_token"]))
    marks, diffusion = style.Marks(x, y, style.series_looks(shown), tips), style.where("curve", "other")
    net = diffusion.transform_filter("isValid(datum.net_j_per_token)").mark_point(shape="stroke", opacity=1)
    layers = [
        *marks.bands(style.where("baseline")),
        *marks.curves(diffusion),
        net.encode(x=x, y=style.of(y, "net_j_per_token"), color=marks.looks.color, tooltip=tips),
    ]
    return style.panels(layers, shown)
