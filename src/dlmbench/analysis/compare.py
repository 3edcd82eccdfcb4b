"""Two runs side by side: cells joined by content, ratios with intervals, a verdict for each.

Times of two machines, precisions or kernels are not one experiment. Differences are determined first and listed; a
caller who continues anyway gets cells joined by the rest of their content, each with the list of what differs in it.
Ratios are first over second, so that above 1 the second run is faster. Their errors are those between processes; with
fewer than three processes a difference must exceed the noise floor. All verdicts of a comparison are controlled for
false discoveries together. Two runs on one host say nothing of the spread between hosts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np

from dlmbench.analysis.parity import ALPHA, PerText, common_prompts, difference
from dlmbench.analysis.quality import MetricInfo, all_cells, metrics_of, scores_by_text, whole_scores
from dlmbench.analysis.replication import DISTURBED, LEAST, Ratio, latencies
from dlmbench.analysis.stats import Interval, Summary, false_discovery, group_by
from dlmbench.analysis.study import peak_of, timing_of
from dlmbench.types import Cell, CellResult, Environment, MemoryPass, Run

SpeedVerdict = Literal["faster", "slower", "no difference shown", "too few repetitions", "disturbed", "not timed"]
QualityVerdict = Literal["better", "worse", "no difference shown", "equal"]
# Environments may differ in these and still be compared; the differences are listed.
_CIRCUMSTANCES = ("device_count", "cuda", "python", "cpu", "power_cap_w", "host", "platform", "dlmbench", "git_commit")
_UNKNOWN = "not on record"


@dataclass(frozen=True)
class RunDifference:
    """Something that differs between the runs, or between two cells that were joined anyway."""

    name: str
    first: str
    second: str


@dataclass(frozen=True)
class MemoryChange:
    """Peak memory of one generation in both runs, in bytes, by the same `source`."""

    source: str
    first_bytes: int
    second_bytes: int


@dataclass(frozen=True)
class QualityChange:
    """A metric in both runs, in its unit. change: second minus first over the prompts both scored (paired bootstrap),
    None where there is no interval, as for a single prompt.

    verdict: of the second run, false discoveries controlled over all scores of the comparison; None where there can be
    no interval (scores of whole sets, or other prompts). p_value: that nothing changed, not adjusted.
    """

    metric: MetricInfo
    first: float
    second: float
    change: Interval | None
    verdict: QualityVerdict | None
    n: int | None
    p_value: float | None = None


@dataclass(frozen=True)
class CellPair:
    """One cell in both runs. ratio: latency of the first over the second's; above 1 the second is faster.

    differs: what is not the same in the two cells or their environments; empty where they are comparable. processes:
    the number each was timed in.
    """

    label: str
    first: Cell
    second: Cell
    first_latency_s: Summary | None
    second_latency_s: Summary | None
    ratio: Ratio | None
    verdict: SpeedVerdict
    reason: str
    memory: MemoryChange | None
    quality: tuple[QualityChange, ...]
    differs: tuple[RunDifference, ...]
    processes: tuple[int, int]

    @property
    def speedup(self) -> Interval | None:
        """The ratio with its interval."""
        return self.ratio.interval() if self.ratio else None

    @property
    def comparable(self) -> bool:
        """Whether nothing but the run differs."""
        return not self.differs


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side.

    obstacles: why they are not comparable; with any of them every pair is marked. circumstances: differences that do
    not forbid it. only_first, only_second: cells without a partner.
    """

    first: str
    second: str
    obstacles: tuple[RunDifference, ...]
    circumstances: tuple[RunDifference, ...]
    pairs: tuple[CellPair, ...]
    only_first: tuple[Cell, ...]
    only_second: tuple[Cell, ...]

    @property
    def comparable(self) -> bool:
        """Whether there is no obstacle."""
        return not self.obstacles

    @property
    def one_per_text(self) -> tuple[CellPair, ...]:
        """The first pair of each set of texts: cells that differ only in batch size share texts and quality."""
        groups = group_by(self.pairs, lambda p: (p.first.quality_key, p.second.quality_key))
        return tuple(group[0] for group in groups.values())

    def count(self, verdict: SpeedVerdict) -> int:
        """How many cells have this verdict."""
        return sum(p.verdict == verdict for p in self.pairs)


def compare(first: Run, second: Run) -> Comparison:
    """Everything the two runs have in common; the same runs give the same numbers to the digit."""
    environment = _environment(first, second)
    joined, only_first, only_second = _join(first, second)
    pairs = _pairs(first, second, joined, environment)
    circumstances = _fields(first.environment, second.environment, _CIRCUMSTANCES)
    return Comparison(
        first=first.name,
        second=second.name,
        obstacles=_together([*environment, *(d for p in pairs for d in p.differs)]),
        circumstances=circumstances if first.environment and second.environment else (),
        pairs=pairs,
        only_first=only_first,
        only_second=only_second,
    )


# ---------------------------------------------------------------- obstacles


def _fields(a: Environment | None, b: Environment | None, names: Sequence[str]) -> tuple[RunDifference, ...]:
    pairs = ((n, _text(getattr(a, n, None)), _text(getattr(b, n, None))) for n in names)
    return tuple(RunDifference(*pair) for pair in pairs if pair[1] != pair[2])


def _text(value: object) -> str:
    return _UNKNOWN if value is None else str(value)


def _environment(first: Run, second: Run) -> tuple[RunDifference, ...]:
    """What of `Environment.COMPARABLE` differs. Two runs without a recorded environment are not comparable."""
    if first.environment is None and second.environment is None:
        return (RunDifference("environment", _UNKNOWN, _UNKNOWN),)
    return _fields(first.environment, second.environment, Environment.COMPARABLE)


def _controls_of(cell: Cell) -> dict[str, str]:
    """The settings of a cell that affect its times, apart from its place on the grid."""
    model = cell.model
    return {
        "precision": cell.precision,
        "attention kernel": cell.attention,
        "engine": cell.engine,
        "model": f"{model.family} {model.source}",
        "revision": _text(model.revision),
        "weights": model.weights,
        "prompts": cell.prompts,
        "seed": str(cell.seed),
    }


def _controls(left: CellResult, right: CellResult) -> Iterator[RunDifference]:
    ours, theirs = _controls_of(left.cell), _controls_of(right.cell)
    a, b = left.cell.model, right.cell.model
    if a.content and b.content:
        same = a.identity == b.identity
        for controls, model in ((ours, a), (theirs, b)):
            # Key, folder and revision are only names; models of equal content are one model.
            controls["model"] = f"{model.family} {model.content if same else f'{model.source} ({model.content})'}"
            controls["revision"] = ""
    ours["clock"], theirs["clock"] = (", ".join(sorted({s.clock for s in r.timed})) for r in (left, right))
    for name, value in ours.items():
        # A cell without repetitions has no clock to compare.
        if value != theirs[name] and not (name == "clock" and "" in (value, theirs[name])):
            yield RunDifference(name, value, theirs[name])


def _together(found: Sequence[RunDifference]) -> tuple[RunDifference, ...]:
    """One difference per name, with every value that occurs, in order of appearance."""

    def values(group: Sequence[RunDifference], side: str) -> str:
        return " and ".join(dict.fromkeys(getattr(d, side) for d in group))

    groups = group_by(found, lambda d: d.name).items()
    return tuple(RunDifference(name, values(group, "first"), values(group, "second")) for name, group in groups)


# ---------------------------------------------------------------- joining


def _place(cell: Cell) -> tuple[object, ...]:
    """A cell's place on the grid, whatever its controls."""
    knobs = tuple(sorted((k, repr(v)) for k, v in cell.knobs))
    return (cell.model.role, cell.sampler, knobs, cell.batch_size, cell.prompt_tokens, cell.new_tokens)


def _results(run: Run) -> dict[str, CellResult]:
    """A result for every planned cell, empty for those that have none."""
    found = {r.cell.id: r for r in run.results}
    empty = {c.id: CellResult(c, None, "not measured", (), None, None, "") for c in all_cells(run)}
    return {**empty, **found}


def _join(first: Run, second: Run) -> tuple[list[tuple[CellResult, CellResult]], tuple[Cell, ...], tuple[Cell, ...]]:
    """Cells of equal content first; then those of equal place, the pairs with most in common first."""
    ours, theirs = _results(first), _results(second)
    partner = {i: i for i in ours if i in theirs}
    left = [r.cell for i, r in ours.items() if i not in partner]
    right = [r.cell for i, r in theirs.items() if i not in partner]
    by_place = group_by(range(len(right)), lambda j: _place(right[j]))
    candidates = sorted(
        (-_agreement(cell, right[j]), i, j) for i, cell in enumerate(left) for j in by_place.get(_place(cell), ())
    )
    taken: set[int] = set()
    for _, i, j in candidates:
        if left[i].id not in partner and j not in taken:
            partner[left[i].id] = right[j].id
            taken.add(j)
    matched = set(partner.values())
    return (
        [(r, theirs[partner[i]]) for i, r in ours.items() if i in partner],
        tuple(r.cell for i, r in ours.items() if i not in partner),
        tuple(r.cell for i, r in theirs.items() if i not in matched),
    )


def _agreement(a: Cell, b: Cell) -> int:
    ours, theirs = _controls_of(a), _controls_of(b)
    return sum(ours[n] == theirs[n] for n in ours)


# ---------------------------------------------------------------- pairs


def _pairs(
    first: Run, second: Run, joined: Sequence[tuple[CellResult, CellResult]], environment: tuple[RunDifference, ...]
) -> tuple[CellPair, ...]:
    """Both cells side by side, with false discoveries controlled over all times and over all scores."""
    times = latencies(first.results, first.selfcheck), latencies(second.results, second.selfcheck)
    estimates = [(times[0].get(a.cell.id), times[1].get(b.cell.id)) for a, b in joined]
    ratios = [ours.over(theirs) if ours and theirs else None for ours, theirs in estimates]
    adjusted = iter(false_discovery([r.p_value for r in ratios if r]))
    quality = _quality(first, second, [(a.cell, b.cell) for a, b in joined])
    found = []
    for (a, b), (ours, theirs), ratio in zip(joined, estimates, ratios, strict=True):
        untimed = (
            f"{side}: {r.status or 'not measured'} {r.reason}".strip()
            for side, r, estimate in (("first", a, ours), ("second", b, theirs))
            if not estimate
        )
        verdict, reason = _speed(ratio, next(adjusted)) if ratio else ("not timed", "; ".join(untimed))
        pair = CellPair(
            label=a.cell.label,
            first=a.cell,
            second=b.cell,
            first_latency_s=timing_of(a, ours) if ours else None,
            second_latency_s=timing_of(b, theirs) if theirs else None,
            ratio=ratio,
            verdict=verdict,
            reason=reason,
            memory=_memory(a.memory, b.memory),
            quality=quality[a.cell.quality_key, b.cell.quality_key],
            differs=(*environment, *_controls(a, b)),
            processes=(len({s.process_id for s in a.timed}), len({s.process_id for s in b.timed})),
        )
        found.append(pair)
    return tuple(found)


def _speed(ratio: Ratio, p_value: float) -> tuple[SpeedVerdict, str]:
    """The verdict on a ratio with its adjusted p-value, and the reason where there is none."""
    if ratio.is_disturbed:
        return "disturbed", DISTURBED
    if not ratio.suffices:
        return "too few repetitions", f"a verdict needs {LEAST}"
    if p_value <= ALPHA:
        return "faster" if ratio.log > 0 else "slower", ""
    floor = f"within one process; differences under {ratio.floor:.1%} cannot be shown" if ratio.floor else ""
    return "no difference shown", floor


def _memory(a: MemoryPass | None, b: MemoryPass | None) -> MemoryChange | None:
    """Both peaks where they are from the same counter; the memory of a GPU and of a host are not compared."""
    ours, theirs = peak_of(a), peak_of(b)
    if a is None or b is None or a.source != b.source or ours is None or theirs is None or ours.source != theirs.source:
        return None
    return MemoryChange(ours.source, ours.bytes, theirs.bytes)


def _quality(
    first: Run, second: Run, pairs: Sequence[tuple[Cell, Cell]]
) -> dict[tuple[str, str], tuple[QualityChange, ...]]:
    """Every metric that both cells have, by their quality keys, false discoveries controlled over all.

    Random weights have none, because their texts mean nothing.
    """
    texts, whole = [scores_by_text(r) for r in (first, second)], [whole_scores(r) for r in (first, second)]
    theirs = {m.name: m for m in metrics_of(second)}
    metrics = [m for m in metrics_of(first) if theirs.get(m.name) == m and m.truth_of is None]

    def change(metric: MetricInfo, a: Cell, b: Cell) -> QualityChange | None:
        keys = (a.quality_key, metric.name), (b.quality_key, metric.name)
        one, other = (t.get(k) for t, k in zip(texts, keys, strict=True))
        if one is None or other is None:
            values = [score.value if score else None for score in (w.get(k) for w, k in zip(whole, keys, strict=True))]
            return _unpaired(metric, *values)
        if a.prompts == b.prompts and (shared := common_prompts([one, other])):
            return _paired(metric, one.only(shared), other.only(shared))
        return _unpaired(metric, one.value, other.value)

    found = {
        (a.quality_key, b.quality_key): ()
        if "random" in (a.model.weights, b.model.weights)
        else tuple(c for metric in metrics if (c := change(metric, a, b)))
        for a, b in pairs
    }
    adjusted = iter(false_discovery([c.p_value for group in found.values() for c in group if c.p_value is not None]))
    return {
        key: tuple(c if c.p_value is None else _judged(c, next(adjusted)) for c in group)
        for key, group in found.items()
    }


def _judged(change: QualityChange, p_value: float) -> QualityChange:
    if p_value > ALPHA:
        return change
    is_better = (change.second > change.first) == change.metric.higher_is_better
    return replace(change, verdict="better" if is_better else "worse")


def _paired(metric: MetricInfo, one: PerText, other: PerText) -> QualityChange | None:
    if not np.isfinite([one.value, other.value]).all():
        return None
    change, p_value = difference(other, one)
    is_equal = np.array_equal(one.totals, other.totals) and np.array_equal(one.weights, other.weights)
    verdict: QualityVerdict = "equal" if is_equal else "no difference shown"
    known = change if change.is_known else None
    return QualityChange(metric, one.value, other.value, known, verdict, min(one.n, other.n), p_value)


def _unpaired(metric: MetricInfo, first: float | None, second: float | None) -> QualityChange | None:
    if first is None or second is None or not np.isfinite([first, second]).all():
        return None
    return QualityChange(metric, first, second, None, None, None)


def as_record(comparison: Comparison) -> Mapping[str, object]:
    """The comparison for JSON; every pair says whether it is comparable."""
    record = asdict(comparison)
    for pair, entry in zip(comparison.pairs, record["pairs"], strict=True):
        entry["comparable"] = pair.comparable
        del entry["ratio"]
        entry["speedup"] = pair.speedup and pair.speedup.as_dict()
    return {"comparable": comparison.comparable, "speedup": "first over second; above 1 the second is faster", **record}
