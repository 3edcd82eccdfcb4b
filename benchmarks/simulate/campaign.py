"""Scenarios and the rows they give: what is counted, the bound it must keep, and whether it does."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BEFORE_TRIALS = 300


@dataclass(frozen=True)
class Row:
    """One figure of the table.

    value, error: a share of trials and its Monte Carlo standard error. least, most: the bound on it, one of the two.
    width: mean width of the intervals over the narrowest that would have covered 95% of the same trials, or another
    measure of caution that the scenario names; most_width: its bound. before: the share under the rule that this one
    replaced. limit: why the bound is not reached here, where that is known and documented.
    """

    rule: str
    scenario: str
    quantity: str
    value: float
    error: float
    least: float | None = None
    most: float | None = None
    width: float | None = None
    most_width: float | None = None
    before: float | None = None
    limit: str = ""
    trials: int = 0

    @property
    def is_kept(self) -> bool:
        """Whether every bound is kept by the estimate itself, without allowance for its Monte Carlo error."""
        return (
            (self.least is None or self.value >= self.least)
            and (self.most is None or self.value <= self.most)
            and (self.most_width is None or (self.width is not None and self.width <= self.most_width))
        )

    @property
    def found(self) -> str:
        """The share with its error, and the width."""
        width = f", width {self.width:.2f}" if self.width is not None else ""
        return f"{100 * self.value:.1f} ± {100 * self.error:.1f}%{width}"

    @property
    def bound(self) -> str:
        """What is asked for."""
        share = f"≥ {self.least:.0%}" if self.least is not None else f"≤ {self.most:.0%}"
        return share + (f", width ≤ {self.most_width:g}" if self.most_width is not None else "")


@dataclass(frozen=True)
class Trial:
    """What one trial found: the share of hits (covered, false or found); NaN where the trial does not apply.

    half_widths_C, errors_C: of the intervals of C quantities and of their estimates, from which the width relative to
    the ideal follows. excess: another measure of caution, whose mean is reported in place of that.
    """

    hit: float
    half_widths_C: FloatArray | None = None
    errors_C: FloatArray | None = None
    excess: float | None = None


@dataclass(frozen=True)
class Scenario:
    """A rule under one set of circumstances; `trial` is repeated with fresh random numbers.

    before: one trial of the rule that this one replaced, repeated BEFORE_TRIALS times at most. share: of the trials
    asked for.
    """

    rule: str
    name: str
    quantity: str
    trial: Callable[[np.random.Generator], Trial]
    least: float | None = None
    most: float | None = None
    most_width: float | None = None
    limit: str = ""
    share: float = 1.0
    before: Callable[[np.random.Generator], float] | None = None

    def run(self, trials: int) -> Row:
        """The row after `trials` trials; the same random numbers every time."""
        n = max(2, round(trials * self.share))
        seed = [ord(c) for c in f"{self.rule}: {self.name}: {self.quantity}"]
        found = [t for i in range(n) if not math.isnan((t := self.trial(np.random.default_rng([*seed, i]))).hit)]
        hits = np.array([t.hit for t in found])
        old = (
            [self.before(np.random.default_rng([*seed, i])) for i in range(min(n, BEFORE_TRIALS))]
            if self.before
            else []
        )
        return Row(
            self.rule,
            self.name,
            self.quantity,
            value=float(hits.mean()),
            error=float(hits.std(ddof=1) / len(found) ** 0.5),
            least=self.least,
            most=self.most,
            width=_width(found),
            most_width=self.most_width,
            before=_mean(old),
            limit=self.limit,
            trials=len(found),
        )


def _width(trials: Sequence[Trial]) -> float | None:
    """Mean half width over the 95th percentile of the absolute errors, averaged over the quantities."""
    if trials[0].half_widths_C is None:
        return _mean([t.excess for t in trials])
    half_TC = np.stack([t.half_widths_C for t in trials])
    ideal_C = np.quantile(np.abs(np.stack([t.errors_C for t in trials])), 0.95, axis=0)
    return float(np.mean(half_TC.mean(axis=0) / ideal_C))


def table(rows: Sequence[Row], notes: Mapping[str, str]) -> str:
    """A Markdown table for each rule, under its note."""
    parts = []
    for rule, group in itertools.groupby(rows, lambda r: r.rule):
        lines = [
            f"### {rule}",
            "",
            notes[rule],
            "",
            "| circumstances | counted | found | asked for | before |",
            "|" + 5 * "---|",
        ]
        for row in group:
            before = "" if row.before is None else f"{row.before:.0%}"
            verdict = (
                row.bound if row.is_kept else f"{row.bound}: **not reached here**{': ' * bool(row.limit)}{row.limit}"
            )
            lines.append(f"| {row.scenario} | {row.quantity} | {row.found} | {verdict} | {before} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None
