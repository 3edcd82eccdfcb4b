"""The answer of a run: a headline and one row per workload. Console, page and document print these and say no more.

Everything here is read from the verdicts and curves; nothing is decided here. A workload is a batch size with its
lengths. It is judged over all diffusion settings that were measured for it: the row shows the best of them and says how
the others ended, so that none is hidden. Every text has an id, the same wherever it is printed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dlmbench.analysis.replication import DISTURBED, LEAST_ALONE, LEAST_PROCESSES, LEAST_REPETITIONS, Ratio
from dlmbench.analysis.results import Curve, Study, Verdict
from dlmbench.analysis.stats import Interval, group_by
from dlmbench.report.text import counted, listed, percent, rounded, spread, value_id

COLUMNS = {
    "workload": "batch, prompt + new tokens",
    "as_good_from": "as good from K",
    "speed_there": "speed there (x the baseline's)",
    "faster_up_to": "faster only up to k*",
    "speeds": "speed with the fewest and the most steps",
    "sure": "how sure",
    "verdict": "verdict",
    "settles": "what would settle it",
}
# Beyond so many different claims the headline counts them; the rows have them all.
MOST_CLAIMS = 3
NOT_MEASURED = {"as_good_from": "not measured", "speed_there": "not known", "speeds": "", "sure": "", "settles": ""}
# Columns that become a note where all rows are alike.
SHARED = {"sure": "All workloads", "verdict": "All workloads", "settles": "What would settle it"}
CONTROLS = ("engine", "precision", "attention")
# Prompt tokens, new tokens, batch size, and the controls that differ within the run, as text.
Workload = tuple[int, int, int, str]
_WINNERS = {"diffusion": "diffusion wins", "baseline": "the baseline wins", "undecided": "undecided"}


@dataclass(frozen=True)
class AnswerRow:
    """One workload as text. id: of the workload; the id of a value is this and the name of its column."""

    id: str
    workload: str
    as_good_from: str
    speed_there: str
    faster_up_to: str
    speeds: str
    sure: str
    verdict: str
    settles: str
    outcome: str
    batch_size: int
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True)
class Answer:
    """The headline, the rows in order of lengths and batch size, and notes that concern all of them."""

    headline: str
    rows: tuple[AnswerRow, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> dict[str, str]:
        """Name -> title of every column in which some row has a value; what all rows share is in the notes."""
        texts = {name: [getattr(r, name) for r in self.rows] for name in COLUMNS}
        kept = {n: t for n, t in texts.items() if any(v != NOT_MEASURED.get(n) for v in t)}
        return {n: COLUMNS[n] for n, t in kept.items() if n not in SHARED or len(t) == 1 or len(set(t)) > 1}

    def cells(self, row: AnswerRow) -> list[tuple[str, str]]:
        """(value id, text) of a row in each column."""
        return [(f"{row.id}.{name}", getattr(row, name)) for name in self.columns]

    @property
    def texts(self) -> list[list[tuple[str, str]]]:
        """The cells of every row."""
        return [self.cells(row) for row in self.rows]

    def values(self) -> dict[str, str]:
        """Value id -> text of everything that is printed."""
        notes = {f"note-{i}": text for i, text in enumerate(self.notes, 1)}
        return {"headline": self.headline, **dict(c for cells in self.texts for c in cells), **notes}

    def brief(self) -> list[tuple[str, str, str]]:
        """(value id, where, text) for each workload: its verdict, or what is known where that is the same for all."""
        name = next((n for n in ("verdict", "faster_up_to") if n in self.columns), "workload")
        title = "" if name == "verdict" else f"{COLUMNS[name]} "
        return [(f"{r.id}.{name}", f"Batch {r.workload}: {title}", getattr(r, name)) for r in self.rows]

    def text(self) -> str:
        """All of it as plain text, a paragraph for each part and a line for each value of a row."""
        rows = ["\n".join(f"{COLUMNS[i.rpartition('.')[2]]}: {t}." for i, t in cells if t) for cells in self.texts]
        return "\n\n".join([self.headline, *rows, *self.notes])


def answer_of(study: Study) -> Answer:
    """The answer of `study`; without a comparison the headline says what is missing."""
    if not study.curves:
        missing = study.missing or ("no cell has a step count",)
        return Answer(" ".join(["There is nothing to compare yet.", *(f"{_capital(m)}." for m in missing)]))
    if not study.baselines:
        models = listed(c.model for c in study.curves)
        return Answer(f"{models} was measured alone: a comparison needs an autoregressive baseline.")
    # Engines and precisions are never mixed in a row: a slow one would lend its baseline to the other's diffusion.
    varying = [n for n in CONTROLS if len({getattr(c.points[0].cell, n) for c in study.curves}) > 1]

    def workload(pair: tuple[Curve, Verdict]) -> Workload:
        cell = pair[0].points[0].cell
        return cell.prompt_tokens, cell.new_tokens, cell.batch_size, ", ".join(getattr(cell, n) for n in varying)

    groups = group_by(zip(study.curves, study.verdicts, strict=True), workload)
    found = [(at, _best(pairs), pairs) for at, pairs in sorted(groups.items())]
    rows = tuple(_row(at, *best, pairs) for at, best, pairs in found)
    one_length = len({at[:2] for at, _, _ in found}) == 1
    places = [_place(at, one_length) for at, _, _ in found]
    return Answer(headline(places, [best for _, best, _ in found]), rows, tuple(_notes(study, rows)))


def _place(at: Workload, one_length: bool) -> str:
    prompt, new, batch, controls = at
    lengths = "" if one_length else f" with {prompt}+{new} tokens"
    return f"batch {batch}{lengths}" + (f" on {controls}" if controls else "")


def _best(pairs: Sequence[tuple[Curve, Verdict]]) -> tuple[Curve, Verdict]:
    """The setting most favourable to diffusion: by verdict, then by speed at parity, then by break-even."""
    order = ("baseline", "undecided", "diffusion")

    def merit(pair: tuple[Curve, Verdict]) -> tuple[int, float, float]:
        curve, verdict = pair
        speed = verdict.speed.value if verdict.speed else 0.0
        return order.index(verdict.outcome), speed, (curve.break_even and curve.break_even.steps) or 0.0

    return max(pairs, key=merit)


def times_faster(speed: Interval) -> str:
    """A speed relative to the baseline as "2.5x faster" or "3.1x slower"."""
    if speed.value >= 1:
        return f"{rounded(speed)}x faster"
    return f"{rounded(Interval(1 / speed.value, 1 / speed.high, 1 / speed.low))}x slower"


# ---------------------------------------------------------------- the headline


def headline(places: Sequence[str], best: Sequence[tuple[Curve, Verdict]]) -> str:
    """What a person would say first, from the best setting of each workload; workloads that ended alike together."""
    speed_only = all(verdict.metric is None for _, verdict in best)
    claim = _speed_alone if speed_only else _at_equal_quality
    ranked = list(zip(best, places, strict=True))
    if speed_only:
        ranked.sort(key=lambda item: _share_faster(item[0][0]), reverse=True)
    groups = group_by([(claim(*pair), place) for pair, place in ranked], lambda item: item[0])
    claims = [f"{text} {_at([place for _, place in group], len(places))}." for text, group in groups.items()]
    if len(claims) > MOST_CLAIMS and speed_only:
        ends = [("At best (largest share of steps)", *ranked[0]), ("At worst (smallest share)", *ranked[-1])]
        claims = [f"{end} {claim(*pair)} {_at([place], len(places))}." for end, pair, place in ends]
    elif len(claims) > MOST_CLAIMS:
        outcomes = Counter(_WINNERS[verdict.outcome] for _, verdict in best)
        claims = [f"Of {len(places)} workloads: {', '.join(f'{text} in {n}' for text, n in outcomes.items())}."]
    return " ".join([*(["Speed only, quality was not measured."] if speed_only else []), *claims])


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _share_faster(curve: Curve) -> float:
    """The share of the steps up to which diffusion is faster."""
    line = curve.break_even
    return (line.steps or 0.0) / curve.new_tokens if line else 0.0


def _at_equal_quality(curve: Curve, verdict: Verdict) -> str:
    if verdict.outcome == "undecided":
        return "Which model wins is undecided"
    if verdict.speed is not None:
        return f"At near-equal quality {curve.model} is {times_faster(verdict.speed)}"
    if verdict.parity == "not_reached":
        return f"{curve.model} does not reach near-equal quality"
    return f"{curve.model} is slower wherever its quality could be near-equal"


def _speed_alone(curve: Curve, verdict: Verdict) -> str:
    """Only what is shown is called faster; a rough k* is named as where both take about equally long."""
    line, measured = curve.break_even, [p.cell.steps for p in curve.timed]
    if line is not None and line.steps is not None and 1 <= line.steps <= curve.new_tokens:
        crossing = f"{line.text().partition(' (')[0]} of {curve.new_tokens} steps"
        if line.low is not None:
            return f"{curve.model} is faster up to {crossing}"
        if not line.is_extrapolated or verdict.faster_steps:
            return f"{curve.model} breaks even at {crossing}"
    if verdict.slower_steps and list(verdict.slower_steps) == measured:
        return f"{curve.model} is slower at every step count measured"
    if verdict.faster_steps:
        known = listed(f"K={k}" for k in verdict.faster_steps)
        return f"{curve.model} is faster with {known} of {curve.new_tokens} steps"
    return f"{curve.model} is not shown to be faster or slower"


def _at(places: Sequence[str], n: int) -> str:
    """ "at batch 1, 4 and 8": what the places begin with alike is said once; many of them are counted."""
    if len(places) > MOST_CLAIMS:
        return f"in {'all' if len(places) == n else f'{len(places)} of'} {n} workloads"
    short = not any(" with " in p for p in places)
    return f"at {listed([places[0], *(p.removeprefix('batch ') if short else p for p in places[1:])])}"


# ---------------------------------------------------------------- the rows


def _row(at: Workload, curve: Curve, verdict: Verdict, settings: Sequence[tuple[Curve, Verdict]]) -> AnswerRow:
    prompt, new, batch, controls = at
    decided = f"{_capital(_WINNERS[verdict.outcome])}: {verdict.reason.replace(': ', ', ')}"
    counts = Counter(_WINNERS[v.outcome] for _, v in settings)
    if len(counts) > 1:
        decided += f". Of {len(settings)} settings: {', '.join(f'{text} in {n}' for text, n in counts.items())}"
    return AnswerRow(
        id=value_id(f"b{batch}-p{prompt}-g{new}" + (f"-{controls}" if controls else "")),
        workload=f"{batch}, {prompt}+{new}" + (f", {controls}" if controls else ""),
        as_good_from=_parity(verdict, curve),
        speed_there="not known" if verdict.speed is None else spread(verdict.speed),
        faster_up_to=verdict.break_even,
        speeds=_speeds([c for c, _ in settings]) if verdict.speed is None else "",
        sure=_sure(curve) if verdict.metric is None else "",
        verdict=decided,
        settles=verdict.settles,
        outcome=verdict.outcome,
        batch_size=batch,
        prompt_tokens=prompt,
        new_tokens=new,
    )


def _speeds(settings: Sequence[Curve]) -> str:
    """The speed with the fewest and the most steps over all settings; of several with that many the slowest."""
    timed = [(p.cell.steps or 0, -p.speedup.value, p.speedup, c) for c in settings for p in c.timed if p.speedup]
    if not timed:
        return ""
    fewest, most = min(k for k, *_ in timed), max(k for k, *_ in timed)
    texts = []
    for steps in dict.fromkeys((fewest, most)):
        *_, speed, curve = max((t for t in timed if t[0] == steps), key=lambda t: t[1])
        setting = f" ({curve.label.removeprefix(f'{curve.model}, ')})" if len(settings) > 1 else ""
        texts.append(f"{rounded(speed)}x at K={steps}{setting}")
    return ", ".join(texts)


def _sure(curve: Curve) -> str:
    """At which step counts a speed is shown to differ from the baseline's, and why not at the others."""
    compared = [(p.cell.steps, p.pace, p.ratio) for p in curve.timed if p.ratio is not None]
    groups = group_by(compared, lambda item: ("open", _why_open(item[2])) if item[1] == "unclear" else (item[1], ""))
    texts = []
    for (state, why), items in groups.items():
        at = "each K" if 1 < len(items) == len(compared) else listed(f"K={k}" for k, *_ in items)
        texts.append(f"{state if why else f'shown {state}'} at {at}" + (f" ({why})" if why else ""))
    return _capital(", ".join(texts))


def _why_open(ratio: Ratio) -> str:
    if ratio.is_disturbed:
        return DISTURBED
    return "no difference shown" if ratio.suffices else "too few repetitions"


def _parity(verdict: Verdict, curve: Curve) -> str:
    if verdict.parity is None:
        return "not measured"
    largest = curve.points[-1].cell.steps
    if verdict.parity == "not_reached":
        return f"not up to {largest}"
    low, high = verdict.low_steps, verdict.high_steps
    if verdict.parity_steps is not None:
        at = f"{verdict.parity_steps}" + (" or fewer" if verdict.parity == "reached_at_smallest" else "")
        return at if low == verdict.parity_steps else f"{at} (perhaps {low})"
    if low is None:
        return f"beyond {largest}, or nowhere"
    return f"undecided: {low} to {high or f'beyond {largest}'}"


def _notes(study: Study, rows: Sequence[AnswerRow]) -> list[str]:
    notes = []
    for name, title in SHARED.items():
        same = {getattr(r, name) for r in rows}
        if len(rows) > 1 and len(same) == 1 and (text := same.pop()):
            notes.append(f"{title}: {text}.")
    lead = next((p.metric for c in study.curves if (p := c.headline())), None)
    if lead is not None:
        margin = "a perplexity up to {:.0%} higher" if lead.log_scale else "up to {:g} worse"
        notes.append(f"As good: by {lead.phrase}, {margin.format(lead.margin)}, on the same prompts.")
    ratios = [p.ratio for c in study.curves for p in c.points if p.ratio is not None]
    enough = f"it takes {LEAST_PROCESSES} processes of {LEAST_REPETITIONS}, or {LEAST_ALONE} in one"
    alone = [r for r in ratios if r.suffices and r.floor]
    floor = percent(max((r.floor for r in alone), default=0.0))
    for found, text in (
        ([r for r in ratios if r.is_disturbed], f"Open, since {DISTURBED}: {{}}."),
        (
            [r for r in ratios if not r.suffices and not r.is_disturbed],
            f"Too few repetitions to decide anything: {{}} ({enough}).",
        ),
        (alone, f"From fewer than {LEAST_PROCESSES} processes: {{}}. There, differences under {floor} decide nothing."),
    ):
        if found:
            share = f"all {len(ratios)}" if len(found) == len(ratios) else f"{len(found)} of {len(ratios)}"
            notes.append(text.format(f"{share} speeds" if len(ratios) > 1 else "the only speed"))
    if study.others:
        chosen = counted(len(study.others), "setting")
        notes.append(f"{chosen} without a fixed number of steps: see the table of cells.")
    return notes
