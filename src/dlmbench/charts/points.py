"""The table behind a figure: rows of one dataclass, so that its columns, with their units, are written down once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import pandas as pd

MISSING = "missing"


@dataclass(frozen=True, kw_only=True)
class Point:
    """What every figure's row has. kind: what is drawn (curve, baseline, ...); `missing` rows say why nothing is."""

    kind: str
    series: str = ""
    batch_size: int | None = None
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    weights: str = "pretrained"
    note: str = ""


def table(kind: type[Point], rows: Sequence[Point], why_empty: str) -> pd.DataFrame:
    """`rows` as a frame with the fields of `kind` as columns; without rows, one that says why."""
    data = [asdict(r) for r in rows or [Point(kind=MISSING, note=why_empty)]]
    frame = pd.DataFrame(data, columns=[f.name for f in fields(kind)])
    # pandas keeps None where no row knows a number, else not-a-number: the figures meet one of the two.
    unknown = frame.columns[frame.isna().all()]
    return frame.astype(dict.fromkeys(unknown, float))


def why_missing(frame: pd.DataFrame) -> str | None:
    """Why there is nothing to draw, None where there is something."""
    absent = frame[frame["kind"] == MISSING]
    return str(absent["note"].iloc[0]) if len(absent) == len(frame) and len(frame) else None


def rows_of(frame: pd.DataFrame, **wanted: Any) -> pd.DataFrame:
    """The rows whose columns have the values `wanted`."""
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    return frame


def each(frame: pd.DataFrame, **wanted: Any) -> Iterator[Any]:
    """The rows that have the values `wanted`, one by one, with the columns as attributes."""
    yield from rows_of(frame, **wanted).itertuples(index=False)


def shapes(frame: pd.DataFrame) -> list[tuple[int, int]]:
    """The (prompt, new tokens) pairs in the frame, ascending: one panel each."""
    pairs = frame[["prompt_tokens", "new_tokens"]].dropna().drop_duplicates().astype(int)
    return sorted(tuple(p) for p in pairs.itertuples(index=False, name=None))


def short(series: str) -> str:
    """A series' name without its model, where something else is left to tell it by."""
    return series.partition(", ")[2] or series


def ends(values: Iterable[float]) -> list[int]:
    """The smallest and the largest, ascending: for what a printed figure has no room to show in full."""
    known = sorted({int(v) for v in values})
    return known if len(known) <= 2 else [known[0], known[-1]]
