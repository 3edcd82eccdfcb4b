"""The answer of a run: a headline and one row per workload. Console, page and document print these and say no more.

Everything here is read from the verdicts and curves; nothing is decided here. A workload is a batch size with its
lengths. It is judged over all diffusion settings that were measured for it: the row shows the best of them and says how
the others ended, so that none is hidden. Every text has an id, the same wherever it is printed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from dlmbench.analysis.parity import ParityRange
from dlmbench.analysis.replication import DISTURBED, LEAST, LEAST_PROCESSES, Ratio
from dlmbench.analysis.results import Curve, Study, Verdict
from dlmbench.analysis.stats import Interval, group_by
from dlmbench.report.tables import Column, Table, tabulate
from dlmbench.report.text import counted, listed, percent, rounded, spread, value_id

COLUMNS = (
    Column("workload", "batch, prompt + new tokens", "workload"),
    Column(
        "as_good_from",
        "as good from K",
        "as_good_from",
        help="S_parity: the smallest K from which on every measured K is as good as the baseline",
    ),
    Column(
        "speed_there",
        "speed there (x the baseline's)",
        "speed_there",
        help="the baseline's latency over diffusion's at S_parity; above 1 diffusion is faster. Brackets: an interval "
        "that holds for all verdicts of the run together",
    ),
    Column(
        "faster_up_to",
        "faster only up to k*",
        "faster_up_to",
        help="k*: the K at which both take equally long, in whole steps; up to there diffusion is faster. "
        "Brackets: its 95% interval, or the measured K next to it. About: beyond the K timed",
    ),
    Column("speeds", "speed with the fewest and the most steps", "speeds"),
    Column(
        "sure",
        "how sure",
        "sure",
        help="at which K a speed is shown to differ from the baseline's, with false discoveries held at 5%",
    ),
    Column("verdict", "verdict", "verdict"),
    Column("settles", "what would settle it", "settles"),
)
# Beyond so many workloads of one claim the headline counts them; the rows have them all.
MOST_CLAIMS = 3
MOST_WORDS = 25
# Step counts of other settings that are still named one by one.
MOST_OTHERS = 4
# Columns that become a note where all rows are alike.
SHARED = {"sure": "All workloads", "verdict": "Who wins at equal quality", "settles": "What would settle it"}
# Codes of findings that are printed below the headline.
CAVEATS = ("small_models", "random_weights", "uncommitted")
CONTROLS = ("engine", "precision", "attention")
# Prompt tokens, new tokens, batch size, and the controls that differ within the run, as text.
Workload = tuple[int, int, int, str]
# How a sentence begins and goes on; where it goes on with a speed, only with its direction.
Claim = tuple[str, str]
_WINNERS = {"diffusion": "diffusion wins", "baseline": "the baseline wins", "undecided": "undecided"}


@dataclass(frozen=True)
class AnswerRow:
    """One workload as text; None for what was not measured or needs no word. id: of the workload, for its values."""

    id: str
    workload: str
    as_good_from: str | None
    speed_there: str | None
    faster_up_to: str
    speeds: str | None
    sure: str | None
    verdict: str
    settles: str | None
    outcome: str
    batch_size: int
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True)
class Answer:
    """The headline, the rows in order of lengths and batch size, their table, and notes that concern all of them.

    caveats: what must be known before anything is believed, printed right below the headline.
    """

    headline: str
    caveats: tuple[str, ...]
    rows: tuple[AnswerRow, ...]
    table: Table
    notes: tuple[str, ...]

    def brief(self) -> list[tuple[str, str, str]]:
        """(value id, where, text) for each workload: its verdict, or what is known where that is the same for all."""
        has_verdicts = any(c.key == "verdict" for c in self.table.columns)
        name, title = ("verdict", "") if has_verdicts else ("faster_up_to", "faster only up to k* ")
        return [(f"{r.id}.{name}", f"Batch {r.workload}: {title}", getattr(r, name)) for r in self.rows]


def _answer(study: Study, headline: str, rows: Sequence[AnswerRow] = (), notes: Iterable[str] = ()) -> Answer:
    """What all rows share becomes a note."""
    caveats = (f"{_capital(f.message)}." for f in study.findings if f.code in CAVEATS)
    table = tabulate(COLUMNS, rows, [row.id for row in rows], headline, drop_constant=SHARED)
    shared = (f"{SHARED[column.key]}: {text}." for column, text in table.constant)
    return Answer(headline, tuple(caveats), tuple(rows), replace(table, constant=()), (*shared, *notes))


def answer_of(study: Study) -> Answer:
    """The answer of `study`; without a comparison the headline says what is missing."""
    if not study.curves:
        missing = study.missing or ("no cell has a step count",)
        return _answer(study, " ".join(["There is nothing to compare yet.", *(f"{_capital(m)}." for m in missing)]))
    if not study.baselines:
        models = listed(c.model for c in study.curves)
        return _answer(study, f"{models} was measured alone: a comparison needs an autoregressive baseline.")
    # Engines and precisions are never mixed in a row: a slow one would lend its baseline to the other's diffusion.
    varying = [n for n in CONTROLS if len({getattr(c.points[0].cell, n) for c in study.curves}) > 1]

    def workload(pair: tuple[Curve, Verdict]) -> Workload:
        cell = pair[0].points[0].cell
        return cell.prompt_tokens, cell.new_tokens, cell.batch_size, ", ".join(getattr(cell, n) for n in varying)

    groups = group_by(zip(study.curves, study.verdicts, strict=True), workload)
    found = [(at, _best(pairs), pairs) for at, pairs in sorted(groups.items())]
    rows = [_row(at, *best, pairs) for at, best, pairs in found]
    settings = {at: _setting(best[0], pairs) for at, best, pairs in found}
    return _answer(study, headline([(at, *best) for at, best, _ in found], settings), rows, _notes(study))


def _best(pairs: Sequence[tuple[Curve, Verdict]]) -> tuple[Curve, Verdict]:
    """The setting most favourable to diffusion: by verdict, speed at parity, break-even, then the largest speed.

    A setting that was not timed against the baseline is never the best of those that were.
    """
    order = ("baseline", "undecided", "diffusion")

    def merit(pair: tuple[Curve, Verdict]) -> tuple[int, float, float, float]:
        curve, verdict = pair
        speed = verdict.speed.value if verdict.speed else 0.0
        fastest = max((p.speedup.value for p in curve.timed if p.speedup), default=0.0)
        known = (curve.break_even and curve.break_even.steps) or 0.0
        return order.index(verdict.outcome), speed, known if fastest else -1.0, fastest

    return max(pairs, key=merit)


# ---------------------------------------------------------------- the headline


def headline(best: Sequence[tuple[Workload, Curve, Verdict]], settings: Mapping[Workload, str]) -> str:
    """What a person would say first, from the best setting of each workload; workloads that ended alike together.

    settings: the setting in words, "" where a workload has no other.
    """
    places = [at for at, _, _ in best]
    speed_only = all(verdict.metric is None for _, _, verdict in best)
    if not speed_only:
        decided_first = sorted(best, key=lambda item: item[2].outcome == "undecided")
        return _sentences([(_at_equal_quality(curve, verdict), at, verdict) for at, curve, verdict in decided_first])
    ranked = sorted(best, key=lambda item: _share_faster(item[1]), reverse=True)
    claims = [(_speed_alone(curve), at, verdict) for at, curve, verdict in ranked]
    if len({claim for claim, _, _ in claims}) > MOST_CLAIMS:
        ends = (("In the best workload", claims[0]), ("In the worst", claims[-1]))
        text = " ".join(f"{end} {' '.join(claim)} {_at([at], places)}{settings[at]}." for end, (claim, at, _) in ends)
    else:
        text = _sentences(claims)
    is_random = any(curve.weights == "random" for _, curve, _ in best)
    return f"Speed only{': random weights' if is_random else ', quality was not measured'}. {text}"


def _sentences(claims: Sequence[tuple[Claim, Workload, Verdict]]) -> str:
    """A sentence for all that begins alike, or one for each claim where that becomes too long."""
    places, texts = [at for _, at, _ in claims], []
    for start, same in group_by(claims, lambda item: item[0][0]).items():
        parts = [
            f"{_speeds_there(group)}{end} {_at([at for _, at, _ in group], places)}"
            for (_, end), group in group_by(same, lambda item: item[0]).items()
        ]
        whole = f"{start} {listed(parts)}."
        texts += [whole] if len(whole.split()) < MOST_WORDS else [f"{start} {part}." for part in parts]
    return " ".join(texts)


def _speeds_there(group: Sequence[tuple[Claim, Workload, Verdict]]) -> str:
    """The speeds of verdicts that have one in their claim, as "1.8x " or "2.2x to 3.1x "."""
    if group[0][0][1] not in ("faster", "slower"):
        return ""
    speeds = [v.speed for _, _, v in group if v.speed]
    times = [s if s.value >= 1 else Interval(1 / s.value, 1 / s.high, 1 / s.low) for s in speeds]
    ends = sorted(times, key=lambda speed: speed.value)
    return f"{' to '.join(dict.fromkeys(f'{rounded(speed)}x' for speed in (ends[0], ends[-1])))} "


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _share_faster(curve: Curve) -> float:
    """The share of the steps up to which diffusion is faster."""
    line = curve.break_even
    return (line.steps or 0.0) / curve.new_tokens if line else 0.0


def _at_equal_quality(curve: Curve, verdict: Verdict) -> Claim:
    if verdict.outcome == "undecided":
        return "Which model wins is", "undecided"
    if verdict.speed is not None:
        return f"At near-equal quality {curve.model} is", "faster" if verdict.speed.value >= 1 else "slower"
    if verdict.parity == "not_reached":
        return f"{curve.model} does not reach", "near-equal quality"
    return f"{curve.model} is slower", "wherever its quality could be near-equal"


def _speed_alone(curve: Curve) -> Claim:
    """Only what is shown is called faster; a rough k* is named as where both take about equally long."""
    line = curve.break_even
    paces = group_by((p for p in curve.timed if p.ratio), lambda p: p.pace)
    faster, slower = (paces.get(pace, []) for pace in ("faster", "slower"))
    if line is not None and line.steps is not None and 1 <= line.steps <= curve.new_tokens:
        crossing = f"{line.text().partition(' (')[0]} of {curve.new_tokens} steps"
        if line.low is not None:
            return f"{curve.model} is", f"faster up to {crossing}"
        if not line.is_extrapolated or faster:
            return f"{curve.model} breaks even", f"after {crossing}"
    if slower and len(slower) == len(curve.timed):
        return f"{curve.model} is", "slower at every step count measured"
    if faster:
        known = listed(f"K={p.cell.steps}" for p in faster)
        return f"{curve.model} is", f"faster with {known} of {curve.new_tokens} steps"
    return f"{curve.model} is", "not shown to be faster or slower" if paces else "not timed against the baseline"


def _at(ats: Sequence[Workload], everywhere: Sequence[Workload]) -> str:
    """ "at batch 1, 4 and 8": lengths are named where they differ within the run; many workloads are counted."""
    n = len(everywhere)
    if len(ats) > MOST_CLAIMS:
        return f"in {'all' if len(ats) == n else f'{len(ats)} of'} {n} workloads"
    one_length = len({at[:2] for at in everywhere}) == 1
    where = group_by(ats, lambda at: (at[:2], at[3]))
    texts = []
    for (batches, controls), group in group_by(where, lambda k: (tuple(at[2] for at in where[k]), k[1])).items():
        lengths = "" if one_length else f" with {listed(f'{p}+{g}' for (p, g), _ in group)} tokens"
        texts.append(f"batch {listed(batches)}{lengths}" + (f" on {controls}" if controls else ""))
    return f"at {listed(texts)}"


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
        speed_there=spread(verdict.speed) if verdict.speed else None,
        faster_up_to=verdict.break_even + _setting(curve, settings),
        speeds=None if verdict.speed else _speeds(settings),
        sure=None if verdict.metric else _sure(curve, settings),
        verdict=decided,
        settles=verdict.settles or None,
        outcome=verdict.outcome,
        batch_size=batch,
        prompt_tokens=prompt,
        new_tokens=new,
    )


def _speeds(settings: Sequence[tuple[Curve, Verdict]]) -> str | None:
    """The speed with the fewest and the most steps over all settings; of several with that many the slowest."""
    timed = [(p.cell.steps or 0, -p.speedup.value, p.speedup, c) for c, _ in settings for p in c.timed if p.speedup]
    if not timed:
        return None
    fewest, most = min(k for k, *_ in timed), max(k for k, *_ in timed)
    texts = []
    for steps in dict.fromkeys((fewest, most)):
        *_, speed, curve = max((t for t in timed if t[0] == steps), key=lambda t: t[1])
        setting = _setting(curve, settings)
        texts.append(f"{rounded(speed)}x at K={steps}{setting}")
    return ", ".join(texts)


def _sure(curve: Curve, settings: Sequence[tuple[Curve, Verdict]]) -> str | None:
    """At which step counts a speed is shown to differ from the baseline's, and why not at the others.

    The row's own setting first; the step counts of others name theirs, or are only counted where they are many.
    """
    ordered = sorted((c for c, _ in settings), key=lambda c: c is not curve)
    compared = [(c, p.cell.steps, p.pace, p.ratio) for c in ordered for p in c.timed if p.ratio is not None]
    others = [c for c, *_ in compared if c is not curve]
    own = [steps for c, steps, *_ in compared if c is curve]
    groups = group_by(
        compared, lambda item: ("undecided", _why_open(item[3])) if item[2] == "unclear" else (item[2], "")
    )
    texts = []
    for (state, why), items in groups.items():
        places = _steps([steps for c, steps, *_ in items if c is curve], own)
        elsewhere = [f"K={steps}{_setting(c, settings)}" for c, steps, *_ in items if c is not curve]
        if elsewhere and len(others) > MOST_OTHERS:
            elsewhere = [f"{len(elsewhere)} of {len(others)} in other settings"]
        at = "each K timed" if 1 < len(items) == len(compared) else listed([*places, *elsewhere])
        texts.append(f"{state if why else f'shown {state}'} at {at}" + (f" ({why})" if why else ""))
    return _capital(", ".join(texts)) or None


def _steps(chosen: Sequence[int | None], timed: Sequence[int | None]) -> list[str]:
    """The chosen step counts, three or more in a row as a range."""
    at = [timed.index(k) for k in chosen]
    if len(at) > 2 and at[-1] - at[0] == len(at) - 1:
        return [f"K={chosen[0]} to K={chosen[-1]}"]
    return [f"K={k}" for k in chosen]


def _setting(curve: Curve, settings: Sequence[tuple[Curve, Verdict]]) -> str:
    """The setting of a curve in brackets, where a workload was measured with several."""
    return f" ({curve.label.removeprefix(f'{curve.model}, ')})" if len(settings) > 1 else ""


def _why_open(ratio: Ratio) -> str:
    if ratio.is_disturbed:
        return DISTURBED
    return "no difference shown" if ratio.suffices else "too few repetitions"


def _parity(verdict: Verdict, curve: Curve) -> str | None:
    if verdict.parity is None:
        return None
    found = ParityRange(verdict.parity, verdict.parity_steps, None, verdict.low_steps)
    return found.text(curve.points[-1].cell.steps or 0)


def _notes(study: Study) -> Iterator[str]:
    lead = next((p.metric for c in study.curves if (p := c.headline())), None)
    if lead is not None:
        margin = "a perplexity up to {:.0%} higher" if lead.log_scale else "up to {:g} worse"
        yield f"As good: by {lead.phrase}, {margin.format(lead.margin)}, on the same prompts."
    ratios = [p.ratio for c in study.curves for p in c.points if p.ratio is not None]
    alone = [r for r in ratios if r.suffices and r.floor]
    floor = percent(max((r.floor for r in alone), default=0.0))
    for found, text in (
        ([r for r in ratios if r.is_disturbed], f"Undecided because {DISTURBED}: {{}}."),
        (
            [r for r in ratios if not r.suffices and not r.is_disturbed],
            f"Too few repetitions for a verdict: {{}}. A verdict needs {LEAST}.",
        ),
        (alone, f"Fewer than {LEAST_PROCESSES} processes: {{}}. For them, a difference under {floor} decides nothing."),
    ):
        if found:
            share = f"all {len(ratios)}" if len(found) == len(ratios) else f"{len(found)} of {len(ratios)}"
            yield text.format(f"{share} speeds" if len(ratios) > 1 else "the only speed")
    if study.others:
        chosen = counted(len(study.others), "setting")
        yield f"{chosen} without a fixed number of steps: see the table of cells."
