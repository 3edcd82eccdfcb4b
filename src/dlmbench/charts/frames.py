"""The table behind a figure: rows of one dataclass, so that its columns, with their units, are defined once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import pandas as pd

from dlmbench.analysis.stats import Summary
from dlmbench.analysis.study import CellSummary, Study
from dlmbench.types import Cell

MISSING = "missing"
GIB, MIB = 1 << 30, 1 << 20


@dataclass(frozen=True, kw_only=True)
class Point:
    """The columns of every figure. kind: what is drawn (curve, baseline, ...); a `missing` row says why nothing is."""

    kind: str
    series: str = ""
    batch_size: int | None = None
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    weights: str = "pretrained"
    note: str = ""

    @classmethod
    def of(cls, cell: Cell, kind: str, series: str, **columns: Any) -> Self:
        """A point of `cell`: its batch size, lengths and weights, then `columns`."""
        return cls(
            kind=kind,
            series=series,
            batch_size=cell.batch_size,
            prompt_tokens=cell.prompt_tokens,
            new_tokens=cell.new_tokens,
            weights=cell.model.weights,
            **columns,
        )


def interval_column(name: str, end: str) -> str:
    """The column of an interval's `end` (low or high): latency_s -> latency_low_s, tokens_per_s -> tokens_per_s_low."""
    is_seconds = name.endswith("_s") and not name.endswith("_per_s")
    return f"{name[:-2]}_{end}_s" if is_seconds else f"{name}_{end}"


def median_columns(name: str, summary: Summary | None) -> dict[str, float]:
    """The median under `name` and its interval under the interval columns; nothing where there is no summary."""
    if summary is None:
        return {}
    low, high = interval_column(name, "low"), interval_column(name, "high")
    return {name: summary.median, low: summary.low, high: summary.high}


def cells_by_kind(study: Study) -> list[tuple[str, CellSummary]]:
    """Every cell: the baselines, those on a curve over K, and others, whose samplers choose the number of steps."""
    curves = [p for curve in study.curves for p in curve.points]
    groups = (("baseline", study.baselines), ("curve", curves), ("other", study.others))
    return [(kind, cell) for kind, cells in groups for cell in cells]


def table(point: type[Point], points: Sequence[Point], why_empty: str) -> pd.DataFrame:
    """`points` as a frame with the fields of `point` as columns; without any, a single row that says why."""
    data = [asdict(p) for p in points or [Point(kind=MISSING, note=why_empty)]]
    frame = pd.DataFrame(data, columns=[f.name for f in fields(point)])
    # pandas keeps None in a column without any number and writes NaN in the others: make it NaN in all.
    unknown = frame.columns[frame.isna().all()]
    return frame.astype(dict.fromkeys(unknown, float))


def why_missing(frame: pd.DataFrame) -> str | None:
    """Why there is nothing to draw, None where there is something."""
    absent = frame[frame["kind"] == MISSING]
    return str(absent["note"].iloc[0]) if len(absent) == len(frame) and len(frame) else None


def rows(frame: pd.DataFrame, **wanted: Any) -> pd.DataFrame:
    """The rows whose columns have the values `wanted`."""
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    return frame


def each(frame: pd.DataFrame, **wanted: Any) -> Iterator[Any]:
    """The rows that have the values `wanted`, one by one, with the columns as attributes."""
    yield from rows(frame, **wanted).itertuples(index=False)


def diffusion(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that are not the baseline's."""
    return frame[frame["kind"] != "baseline"]


def names(frame: pd.DataFrame, **wanted: Any) -> list[str]:
    """The series of the rows that have the values `wanted`, each once, in the order of the frame."""
    return list(dict.fromkeys(rows(frame, **wanted)["series"]))


def batch_sizes(frame: pd.DataFrame) -> list[int]:
    """The batch sizes in the frame, ascending."""
    return sorted(int(b) for b in frame["batch_size"].unique())


def step_counts(frame: pd.DataFrame) -> list[float]:
    """The step counts in the frame, ascending."""
    return sorted(float(k) for k in frame["steps"].dropna().unique())


def shapes(frame: pd.DataFrame) -> list[tuple[int, int]]:
    """The (prompt, new tokens) pairs in the frame, ascending."""
    pairs = frame[["prompt_tokens", "new_tokens"]].dropna().drop_duplicates().astype(int)
    return sorted(tuple(p) for p in pairs.itertuples(index=False, name=None))


def shape_title(prompt_tokens: float, new_tokens: float) -> str:
    """A pair of lengths as the title of a panel."""
    return f"{int(prompt_tokens)} prompt + {int(new_tokens)} new tokens"


def where(row: Any) -> str:
    """A row's settings and shape for a caption: `block_length=32, B=1, P=64, G=64`."""
    return f"{short(row.series)}, B={int(row.batch_size)}, P={int(row.prompt_tokens)}, G={int(row.new_tokens)}"


def short(series: str) -> str:
    """The name of a series without its model, where its settings are enough to tell it from others."""
    return series.partition(", ")[2] or series


def memory_unit(largest_bytes: float) -> tuple[int, str]:
    """Bytes in the unit that memory up to `largest_bytes` is shown in, and its name."""
    return (GIB, "GiB") if largest_bytes >= 2 * GIB else (MIB, "MiB")


def with_steps(series: str, steps: float | None) -> str:
    """The name of a line: its series, and its step count where it has one."""
    return series if steps is None or pd.isna(steps) else f"{series}, K={steps:.0f}"
