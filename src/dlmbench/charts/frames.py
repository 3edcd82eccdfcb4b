"""The table behind a figure: rows with named columns, which the CSV has and the chart draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from dlmbench.analysis.break_even import BreakEven
from dlmbench.analysis.results import CellSummary, Curve, Study
from dlmbench.analysis.stats import Interval
from dlmbench.types import Cell

Row = dict[str, Any]
MISSING = "missing"
# The columns of every figure. kind: what is drawn (curve, baseline, ...); a `missing` row's note says why nothing is.
SHARED_COLUMNS = ("kind", "series", "batch_size", "prompt_tokens", "new_tokens", "weights", "note")
LENGTHS = ["prompt_tokens", "new_tokens"]

# ---------------------------------------------------------------- rows of a table


def interval_columns(name: str) -> tuple[str, str, str]:
    """A quantity's column and those of its interval's ends: latency_s, latency_low_s, latency_high_s; the unit last.

    A rate keeps its name: tokens_per_s, tokens_per_s_low, tokens_per_s_high.
    """
    is_seconds = name.endswith("_s") and not name.endswith("_per_s")
    stem, unit = (name[:-2], "_s") if is_seconds else (name, "")
    return name, f"{stem}_low{unit}", f"{stem}_high{unit}"


def with_interval(name: str, value: float | None, low: float | None, high: float | None) -> Row:
    """A value and the ends of its interval in the columns of `name`."""
    return dict(zip(interval_columns(name), (value, low, high), strict=True))


def interval_row(name: str, interval: Interval) -> Row:
    """An interval in the columns of `name`, without ends where one is not known."""
    return with_interval(name, interval.value, *((interval.low, interval.high) if interval.is_known else (None, None)))


def memory_columns(summary: CellSummary) -> Row:
    """Peak memory, the counter that it was read from, and why it is not known."""
    memory = summary.memory
    # The peak that an allocation failed at is not the memory that the cell needs.
    peak = memory.bytes if memory and summary.status != "oom" else None
    return {"peak_bytes": peak, "source": memory.source if memory else "", "note": summary.reason}


def cells(study: Study) -> list[tuple[Row, CellSummary]]:
    """Every cell of the run with its row: shape, steps, repetitions, median latency and throughput.

    kind: baseline, curve (over K) or other, whose sampler chooses the number of steps.
    """
    found = []
    for summary in study.cells:
        cell = summary.cell
        target = "other" if cell.steps is None else "curve"
        row = {
            "kind": "baseline" if cell.model.role == "baseline" else target,
            "series": study.label(cell),
            **_shape(cell),
            "weights": cell.model.weights,
            "steps": cell.steps,
            "repetitions": summary.latency.n if summary.latency else None,
        }
        for name, median in (("latency_s", summary.latency), ("tokens_per_s", summary.throughput)):
            row |= with_interval(name, median.median, median.low, median.high) if median else {}
        found.append((row, summary))
    return found


def curve_row(curve: Curve, kind: str, **columns: Any) -> Row:
    """A row about a whole curve: its name and shape, then `columns`."""
    return {"kind": kind, "series": curve.label, **_shape(curve), **columns}


def _shape(of: Cell | Curve) -> Row:
    return {name: getattr(of, name) for name in ("batch_size", *LENGTHS)}


def break_even_columns(line: BreakEven) -> Row:
    """The break-even of a curve with its interval; the note says how well the line fits."""
    note = f"largest distance of a median from the line: {line.largest_residual:.1%}"
    return {**with_interval("steps", line.steps, line.low, line.high), "note": note}


def table(columns: Sequence[str], rows: Sequence[Row], why_empty: str) -> pd.DataFrame:
    """`rows` as a frame of the shared columns and `columns`; without any row, a single one that says why."""
    texts = {"series": "", "weights": "pretrained", "note": ""}
    data = [{**texts, **row} for row in rows or [{"kind": MISSING, "note": why_empty}]]
    frame = pd.DataFrame(data, columns=[*SHARED_COLUMNS, *columns])
    # pandas keeps None in a column without any number and writes NaN in the others: make it NaN in all.
    unknown = frame.columns[frame.isna().all()]
    return frame.astype(dict.fromkeys(unknown, float))


# ---------------------------------------------------------------- why there is nothing


def why_untimed(study: Study, otherwise: str = "") -> str:
    """Why a figure of times is empty: no cell was timed or, where some were, `otherwise`."""
    return otherwise if any(s.latency for s in study.cells) else "no cell was timed"


def why_unscored(study: Study, otherwise: str) -> str:
    """Why a figure of quality is empty: the weights are random or, where they are not, `otherwise`."""
    is_random = any(c.weights == "random" for c in study.curves)
    return "the weights are random, so quality means nothing" if is_random else otherwise


def why_missing(frame: pd.DataFrame) -> str | None:
    """Why there is nothing to draw, None where there is something."""
    absent = frame[frame["kind"] == MISSING]
    return str(absent["note"].iloc[0]) if len(absent) == len(frame) and len(frame) else None


# ---------------------------------------------------------------- parts of a table


def rows(frame: pd.DataFrame, **wanted: Any) -> pd.DataFrame:
    """The rows whose columns have the values `wanted`."""
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    return frame


def diffusion(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that are not the baseline's."""
    return frame[frame["kind"] != "baseline"]


def names(frame: pd.DataFrame, **wanted: Any) -> list[str]:
    """The series of the rows that have the values `wanted`, each once, in the order of the frame."""
    return list(rows(frame, **wanted)["series"].unique())


# ---------------------------------------------------------------- texts


def length_texts(frame: pd.DataFrame) -> list[pd.Series[str]]:
    """The lengths of each row: prompt and new tokens as one text where both differ between rows."""
    prompt, new = (frame[c].astype(int).astype(str) for c in LENGTHS)
    if prompt.nunique() > 1 and new.nunique() > 1:
        return [prompt + "+" + new + " tokens"]
    return [prompt + " prompt tokens", new + " new tokens"]


def series_texts(frame: pd.DataFrame) -> list[pd.Series[str]]:
    """The series of each row as its model and its settings."""
    return [frame["series"].str.partition(", ")[part] for part in (0, 2)]


def with_panels(frame: pd.DataFrame, *texts: pd.Series[str]) -> pd.DataFrame:
    """The frame with the column `panel`, its titles: those of the `texts` of each row that differ between rows.

    What is the same in all panels is left to the caption (`attrs["same"]`). A single panel has all of it as its title.
    """
    differing = [text for text in texts if text.nunique() > 1]
    same = [text.iloc[0] for text in texts if differing and text.nunique() == 1]
    titles = [", ".join(filter(None, row)) for row in zip(*(differing or texts), strict=True)]
    titled = frame.assign(panel=titles)
    titled.attrs = frame.attrs | {"same": ", ".join(filter(None, same))}
    return titled


def memory_unit(largest_bytes: float) -> tuple[int, str]:
    """Bytes in the unit that memory up to `largest_bytes` is shown in, and its name."""
    return (1 << 30, "GiB") if largest_bytes >= 2 << 30 else (1 << 20, "MiB")


def sources(frame: pd.DataFrame) -> str:
    """The counters that the rows' memory was read from."""
    return " and ".join(s for s in frame["source"].dropna().unique() if s)
