"""Quality that others have published against step counts: parity of models whose weights cannot be run here.

A row is one published number with its protocol and source. Rows of one protocol and one source are a curve; rows of
different protocols are never joined. Two models' published scores are unpaired to us although the items are the same,
so the tests are of two independent proportions, wider than paired ones. How the scores of one model depend on each
other across step counts is unknown: Bonferroni. Two harnesses score the same model differently; where a curve and its
baseline come from different ones, the largest difference on a common model and task widens the test (`harness_gaps`).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import Literal

from scipy import stats as _scipy

from dlmbench.analysis.parity import LEAST_PROMPTS, Parity, ParityPoint, parity_of
from dlmbench.analysis.proportions import unpaired_difference, unpaired_score
from dlmbench.analysis.stats import Interval, group_by
from dlmbench.errors import BenchError
from dlmbench.types import Role, from_mapping

# Points that a score may be lower and still be as good.
MARGIN = 2.0
# Provenances that may decide; any other is drawn hollow and decides nothing.
FIRST_HAND = ("text", "table", "figure")
# Metrics that are a share of right answers, in percent.
SHARES = ("accuracy", "macro_accuracy")


@dataclass(frozen=True)
class PublishedScore:
    """One published score: model, task, protocol, value and source.

    role: baseline or target. variant: base or instruct. metric: accuracy (in %), over items or as the mean over parts
    of a task (macro_accuracy), or perplexity. shots, prompt_format, harness: how the task was asked. items: how many;
    None where unknown. steps: K of a fixed schedule; nfe: mean forwards of an adaptive one, as published. cache: none,
    prefix or dual. commit: the rule by which tokens are committed, threshold its parameter. provenance: how the value
    was read (`FIRST_HAND`, or second hand).
    """

    model: str
    role: Role
    variant: str
    task: str
    metric: Literal["accuracy", "macro_accuracy", "perplexity"]
    shots: int | None
    prompt_format: str
    harness: str
    items: int | None
    new_tokens: int | None
    block_length: int | None
    steps: int | None
    nfe: float | None
    cache: str
    commit: str
    threshold: float | None
    value: float
    source: str
    provenance: str

    @property
    def protocol(self) -> tuple[object, ...]:
        """Equal for rows that may be points of one curve."""
        return (
            *(self.model, self.variant, self.task, self.metric, self.shots, self.prompt_format, self.harness),
            *(self.items, self.new_tokens, self.block_length, self.cache, self.commit, self.source),
        )

    @property
    def question(self) -> tuple[str, ...]:
        """Equal for scores that a target and a baseline may be compared by."""
        return self.variant, self.task, self.metric

    @property
    def setting(self) -> tuple[object, ...]:
        """Equal for scores of one model that differ in harness and source at most."""
        return (
            *(self.model, self.variant, self.task, self.metric, self.shots),
            *(self.new_tokens, self.block_length, self.steps, self.cache, self.commit, self.threshold),
        )

    @property
    def forwards(self) -> int | None:
        """Steps, or the mean forwards of an adaptive rule, rounded up."""
        return self.steps or (math.ceil(self.nfe) if self.nfe else None)

    @property
    def right(self) -> int:
        """How many items were right; of a row without `problem`."""
        assert self.items is not None
        return round(self.value * self.items / 100)

    @property
    def problem(self) -> str:
        """Why the row decides nothing; "" if it may."""
        if self.provenance not in FIRST_HAND:
            return f"read at second hand ({self.provenance})"
        if self.metric != "accuracy" or self.items is None:
            return ""
        places = len(f"{self.value:g}".partition(".")[2])
        is_multiple = abs(self.right * 100 / self.items - self.value) <= 0.5 * 10**-places + 1e-9
        return "" if is_multiple else f"{self.value:g}% is no multiple of 1/{self.items}"


def read_published(path: Path) -> tuple[PublishedScore, ...]:
    """The rows of a CSV whose columns are the fields of `PublishedScore`; an empty field is unknown.

    Raises:
        BenchError: not such a file, with the line.
    """
    rows = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            if missing := {f.name for f in fields(PublishedScore)} - set(table.fieldnames or ()):
                hint = "docs/study/published.csv shows the columns"
                raise BenchError(f"{path} lacks the columns {', '.join(sorted(missing))}", hint)
            for number, values in enumerate(table, start=2):
                try:
                    rows.append(_row({k: v or None for k, v in values.items()}))
                except ValueError as error:
                    hint = "docs/study/published.csv shows the columns"
                    raise BenchError(f"{path}, line {number}: {error}", hint) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BenchError(f"{path} could not be read: {error}", "Name a CSV like docs/study/published.csv") from error
    return tuple(rows)


def _row(values: Mapping[str, str | None]) -> PublishedScore:
    score = from_mapping(PublishedScore, {k: "" if v is None and k in _TEXTS else v for k, v in values.items()})
    if not math.isfinite(score.value) or score.value < 0 or (score.metric in SHARES and score.value > 100):
        raise ValueError(f"value: {score.value:g} is no {score.metric}")
    if score.items is not None and score.items < 1:
        raise ValueError(f"items: {score.items}")
    return score


_TEXTS = ("prompt_format", "harness", "cache", "commit")


@dataclass(frozen=True)
class PublishedCurve:
    """Scores of one protocol against the number of steps, and the baseline's score that they are compared with.

    allowance: points by which the two harnesses may differ.
    """

    points: tuple[PublishedScore, ...]
    baseline: PublishedScore
    allowance: float

    @property
    def parity(self) -> Parity:
        """Where the target is as good as the baseline, within MARGIN points."""
        items = [row.items or 0 for row in (*self.points, self.baseline)]
        points = tuple(self._point(row) for row in self.points)
        decides = min(items) >= LEAST_PROMPTS
        return parity_of(points, decides, n=min(items), delta=MARGIN, margin=MARGIN, is_monotone=True)

    def _point(self, row: PublishedScore) -> ParityPoint:
        assert row.forwards is not None
        counts = (row.right, row.items or 0, self.baseline.right, self.baseline.items or 0)
        gap = unpaired_difference(*counts)
        ends = (100 * gap.low - self.allowance, 100 * gap.high + self.allowance)
        p_good = float(_scipy.norm.sf(unpaired_score(*counts, -(MARGIN - self.allowance) / 100)))
        p_worse = float(_scipy.norm.cdf(unpaired_score(*counts, -(MARGIN + self.allowance) / 100)))
        jointly = min(1.0, len(self.points) * p_worse)
        return ParityPoint(row.forwards, row.value, Interval(100 * gap.value, *ends), p_good, p_worse, jointly)


def harness_gaps(rows: Sequence[PublishedScore]) -> dict[tuple[str, frozenset[str]], float]:
    """By variant and pair of harnesses: the largest difference between their scores of one model, task and setting."""
    gaps: dict[tuple[str, frozenset[str]], float] = {}
    for same in group_by((r for r in rows if r.metric in SHARES and r.harness), lambda r: r.setting).values():
        for one, two in combinations(same, 2):
            if one.harness != two.harness:
                key = (one.variant, frozenset((one.harness, two.harness)))
                gaps[key] = max(gaps.get(key, 0.0), abs(one.value - two.value))
    return gaps


def curves(rows: Iterable[PublishedScore]) -> tuple[PublishedCurve, ...]:
    """Every curve of two step counts or more with every baseline of its task and metric, in the order of the rows.

    Only rows that may decide. Where two harnesses were never run on one model, or the number of shots differs, the
    allowance is the largest that any two harnesses showed on the variant.
    """
    rows = [r for r in rows if r.metric in SHARES and r.items]
    gaps = harness_gaps(rows)
    sound = [r for r in rows if not r.problem]
    found = []
    for points in group_by((r for r in sound if r.role == "target" and r.forwards), lambda r: r.protocol).values():
        ordered = tuple({r.forwards: r for r in sorted(points, key=lambda r: r.forwards or 0)}.values())
        first = ordered[0]
        for baseline in sound if len(ordered) > 1 else ():
            if baseline.role == "baseline" and baseline.question == first.question:
                found.append(PublishedCurve(ordered, baseline, _allowance(gaps, first, baseline)))
    return tuple(found)


def _allowance(
    gaps: Mapping[tuple[str, frozenset[str]], float], row: PublishedScore, baseline: PublishedScore
) -> float:
    pair = frozenset((row.harness, baseline.harness))
    if row.shots == baseline.shots and row.harness:
        if len(pair) == 1:
            return 0.0
        if (row.variant, pair) in gaps:
            return gaps[row.variant, pair]
    return max((gap for (variant, _), gap in gaps.items() if variant == row.variant), default=MARGIN)
