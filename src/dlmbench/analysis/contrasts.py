"""Cells that differ in one setting only: what that setting does to speed, and how memory grows with length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from dlmbench.analysis.parity import ALPHA
from dlmbench.analysis.replication import Ratio
from dlmbench.analysis.results import CellSummary, timed_of
from dlmbench.analysis.stats import false_discovery, group_by
from dlmbench.types import Cell

# A quadratic term below this share of the growth is negligible; a fit this close to all points describes them.
NEGLIGIBLE = 0.1
GOOD_FIT = 0.05
_COMPARED = {f.name for f in fields(Cell)} - {"model", "knobs", "recorded_id"}


@dataclass(frozen=True)
class Contrast:
    """Two values of a setting in cells that are equal otherwise. speeds: of `new` as a multiple of that of `old`.

    shown: how many of the differences are shown, with false discoveries among all pairs of the setting held at 5%.
    """

    old: Any
    new: Any
    speeds: tuple[float, ...]
    shown: int


def setting(cell: Cell, name: str) -> Any:
    """An attribute of a cell, or the knob of that name."""
    return getattr(cell, name) if hasattr(cell, name) else cell.knob(name)


def equal_but(cells: Iterable[CellSummary], *names: str) -> list[list[CellSummary]]:
    """Cells that differ at most in the settings named, together."""
    fixed = sorted(_COMPARED - set(names))

    def key(summary: CellSummary) -> object:
        cell = summary.cell
        # A knob that is off equals one that the sampler does not have.
        knobs = tuple((k, repr(v)) for k, v in cell.knobs if k not in names and v not in (None, False, 0, "none"))
        return (cell.model, tuple(getattr(cell, n) for n in fixed), knobs)

    return list(group_by(cells, key).values())


def by_length(cells: Iterable[CellSummary]) -> list[list[CellSummary]]:
    """Cells that differ only in prompt length, ascending, where there are two lengths or more."""
    groups = equal_but(cells, "prompt_tokens", "prompts")
    ordered = [sorted(g, key=lambda c: c.cell.sequence_length) for g in groups]
    return [g for g in ordered if g[0].cell.sequence_length < g[-1].cell.sequence_length]


def contrasts(cells: Iterable[CellSummary], name: str, *dependent: str) -> list[Contrast]:
    """How one setting changes the speed of cells that differ in nothing else: a contrast for each pair of values.

    dependent: settings that only exist for some values of `name`, and so differ with it.
    """
    found: dict[tuple[Any, Any], list[Ratio]] = {}
    for base, *others in equal_but(timed_of(cells), name, *dependent):
        for other in others:
            old, new = setting(base.cell, name), setting(other.cell, name)
            if old != new and base.seconds and other.seconds:
                found.setdefault((old, new), []).append(base.seconds.over(other.seconds))
    adjusted = iter(false_discovery([r.p_value for ratios in found.values() for r in ratios]))
    return [
        Contrast(old, new, tuple(r.value for r in ratios), sum(next(adjusted) <= ALPHA for _ in ratios))
        for (old, new), ratios in found.items()
    ]


def growth_shape(lengths: Sequence[int], peaks: Sequence[float]) -> str:
    """How memory grows with N, from fits of a + b N and a + b N + c N^2; a takes up weights and libraries.

    Linear only where the quadratic term is negligible. The share that it has of the growth between the ends is named.
    """
    grown = max(peaks) - min(peaks)
    if len(lengths) < 3:
        return "has an unknown shape (two lengths)"
    if not grown:
        return "does not grow"
    n, sizes = np.array(lengths, dtype=float), np.array(peaks, dtype=float)
    line, parabola = (np.polyfit(n, sizes, degree) for degree in (1, 2))
    off_line, off_parabola = (float(np.max(np.abs(np.polyval(f, n) - sizes))) / grown for f in (line, parabola))
    quadratic = float(parabola[0]) * (lengths[-1] ** 2 - lengths[0] ** 2) / grown
    if abs(quadratic) <= NEGLIGIBLE and off_line <= NEGLIGIBLE:
        text = "grows linearly"
    elif off_parabola > GOOD_FIT:
        return "has no clear shape (no good fit by a line or a parabola)"
    else:
        text = f"grows {'faster' if quadratic > 0 else 'slower'} than linearly"
    return f"{text} (quadratic part of the growth: {abs(round(quadratic, 3)):.0%})"
