"""Join published quality of LLaDA-8B and LLaMA-3-8B with the time of their steps: who is faster at equal quality?

    python benchmarks/study.py    # writes docs/study/answer.csv, the tables of its README, paper.md and the README, and
                                  # the cost model beside published speeds (benchmarks/speeds.py)

Quality is what others have published (docs/study/published.csv). Times come from a run of
config/experiments_study_times.yaml in docs/study/tasks (`make study-run`) and, until there is one, from a run of some
of its cells on two H200s: measured, or on the line through the step counts that were measured. Other shapes are
predicted by the cost model fitted to docs/study/h200-native. The README's second table is the answer of
docs/study/h200-x4-native, as its report gives it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import pandas as pd
import speeds
from tables import markdown, write_part

from dlmbench.analysis.break_even import RISING_STEP
from dlmbench.analysis.published import PublishedCurve, PublishedScore, curves, read_published
from dlmbench.analysis.replication import latencies
from dlmbench.analysis.results import Study
from dlmbench.analysis.stats import group_by
from dlmbench.analysis.study import analyse
from dlmbench.charts import frames
from dlmbench.experiment import load, plan
from dlmbench.figures import breakeven_map
from dlmbench.figures.breakeven_map import published_row
from dlmbench.models.loading import architectures
from dlmbench.report.answer import answer_of
from dlmbench.results import read_run
from dlmbench.roofline import calibrate, corrected
from dlmbench.roofline.break_even import break_even_surface
from dlmbench.roofline.hardware import of_device
from dlmbench.types import Architecture, Cell

STUDY = Path(__file__).parents[1] / "docs/study"
README = STUDY.parents[1] / "README.md"
BREAK_EVENS = STUDY / "breakeven"
PAGE, PAPER = STUDY / "README.md", STUDY / "paper.md"
ANSWER, PUBLISHED = STUDY / "answer.csv", STUDY / "published.csv"
CONFIG = STUDY.parents[1] / "config/experiments_study.yaml"
TASKS_RUN, SOME_TASKS = STUDY / "tasks", STUDY / "instrument/gpus-h200-x2/all"
CALIBRATED, MEASURED = STUDY / "h200-native", STUDY / "h200-x4-native"
KINDS = ("measured", "extrapolated", "predicted")
TASKS = {"gsm8k": "GSM8K", "math": "MATH", "humaneval": "HumanEval", "mbpp": "MBPP", "bbh": "BBH"}
BATCH_SIZES, ALL_BATCH_SIZES, NEW_TOKENS = (1, 8, 32), (1, 2, 4, 8, 16, 32), 256
# By block length: the mean prompts of the tasks whose published curves have it.
BREAK_EVEN_PROMPTS: dict[int, tuple[int, ...]] = {256: (132, 628, 680, 894), 32: (894,)}
# In use LLaMA ends with its answer, while LLaDA computes all positions. No source states the length of the answers.
STOPPED = 128


@dataclass(frozen=True)
class Seconds:
    """Seconds of one generation with a 95% interval. kind: one of KINDS."""

    value: float
    low: float
    high: float
    kind: str

    def over(self, other: Seconds) -> Seconds:
        """The ratio of two times, between the ends of both intervals, of the weaker kind."""
        kind = max(self.kind, other.kind, key=KINDS.index)
        return Seconds(self.value / other.value, self.low / other.high, self.high / other.low, kind)


def on_line(points: Mapping[int, Seconds], steps: float, error: float) -> Seconds:
    """Seconds of `steps` on the line through the fewest and the most steps measured.

    Its ends are those of the lines through the ends of both intervals, beyond them through opposite ends, and `error`
    more, the share by which such lines were seen to miss.
    """
    first, last = min(points), max(points)
    share = (steps - first) / (last - first)

    def at(start: float, end: float) -> float:
        return start + share * (end - start)

    a, b = points[first], points[last]
    is_between = 0 <= share <= 1
    ends = sorted([at(a.low, b.low if is_between else b.high), at(a.high, b.high if is_between else b.low)])
    return Seconds(at(a.value, b.value), ends[0] * (1 - error), ends[1] * (1 + error), "extrapolated")


def line_error(lines: Iterable[Mapping[int, Seconds]]) -> float | None:
    """The largest share by which the line through a curve's first two step counts misses its last one.

    Only curves of three or more step counts say something; None without any.
    """
    missed = []
    for points in lines:
        if len(points) > 2:
            *first, last = (sorted(points)[i] for i in (0, 1, -1))
            missed.append(abs(on_line({k: points[k] for k in first}, last, 0).value / points[last].value - 1))
    return max(missed, default=None)


class Times:
    """Times of the cells of CONFIG on one device."""

    def __init__(self) -> None:
        self.run = read_run(TASKS_RUN if TASKS_RUN.exists() else SOME_TASKS)
        calibrated = read_run(CALIBRATED)
        fitted = calibrate.calibrate_run(calibrated)
        self.device = fitted.hardware
        assert self.run.environment is not None
        assert of_device(self.run.environment.device) == self.device, "measured and predicted are of one device"
        self.fits = {c.label: c for c in fitted.calibrations}
        self.cells = {self.key(cell): cell for cell in plan.expand(load.load(CONFIG)).cells}
        self.known, _ = architectures(dict.fromkeys(c.model for c in self.cells.values()))
        self.measured: dict[tuple[object, ...], dict[int, Seconds]] = {}
        for run in (calibrated, self.run):
            found = latencies(run.results, run.selfcheck)
            for cell in (r.cell for r in run.results if r.cell.id in found):
                interval = found[cell.id].interval()
                seconds = Seconds(interval.value, interval.low, interval.high, "measured")
                self.measured.setdefault(self.key(cell)[:-1], {})[cell.steps or 0] = seconds
        seen = line_error(self.measured.values())
        # A bend that break-evens let pass may be there too: few curves have many step counts.
        self.line_error = None if seen is None else max(seen, RISING_STEP)

    @staticmethod
    def key(cell: Cell) -> tuple[object, ...]:
        """What tells the cells of CONFIG apart, the steps last."""
        block = cell.knob("block_length") if cell.steps else None
        shape = cell.batch_size, cell.prompt_tokens, cell.new_tokens
        return (cell.model.role, *shape, block, cell.knob("cache") or "none", cell.steps)

    def baseline(self, batch_size: int, row: PublishedScore, new_tokens: int | None = None) -> Seconds | None:
        """LLaMA's, for as many new tokens as LLaDA generates in a published row; None where CONFIG has no such cell."""
        return self._of("baseline", batch_size, row.prompt_tokens, new_tokens or row.new_tokens, None, "none", None)

    def target(self, batch_size: int, row: PublishedScore) -> Seconds | None:
        """LLaDA's in the setting of a published row; of an adaptive rule for the forwards that were published."""
        shape, forwards = (batch_size, row.prompt_tokens, row.new_tokens), None if row.steps else row.nfe
        # Without a cache all forwards are equal; with one, no published row says how many there are.
        if forwards and row.cache != "none":
            return None
        return self._of("target", *shape, row.block_length, row.cache, row.steps or row.new_tokens, forwards=forwards)

    def _of(self, *key: object, forwards: float | None = None) -> Seconds | None:
        cell = self.cells.get(key)
        if cell is None:
            return None
        points, steps = self.measured.get(key[:-1], {}), forwards or cell.steps or 0
        if forwards is None and steps in points:
            return points[int(steps)]
        if len(points) > 1 and self.line_error is not None:
            return on_line(points, steps, self.line_error)
        architecture: Architecture = self.known[cell.model.key]
        fit = self.fits[corrected.label_of(cell)]
        estimate = calibrate.estimate(fit, cell, architecture, self.device)
        assert estimate is not None
        scale = 1.0 if forwards is None else forwards / (cell.steps or 1)
        return Seconds(scale * estimate.value_s, scale * estimate.low_s, scale * estimate.high_s, "predicted")


@cache
def times_here() -> Times:
    """The times of the committed runs, read and fitted once."""
    return Times()


@dataclass(frozen=True)
class Answer:
    """One row of the answer: where a curve reaches a baseline, and LLaMA's time over LLaDA's there.

    from_steps, to_steps: where parity may lie among the published step counts; None where beyond them or nowhere.
    ratio: at S_parity; where it is not reached, at the most steps published. kind: of the times behind it; "" for none.
    stopped: the same for a LLaMA that ends after STOPPED tokens. not_at: the most steps published at which LLaDA is not
    as good. as_fast_at: the steps at which it takes as long as LLaMA.
    """

    variant: str
    task: str
    rule: str
    new_tokens: int | None
    block_length: int | None
    cache: str
    quality_source: str
    baseline: float
    baseline_source: str
    allowance: float
    outcome: str
    from_steps: int | None
    to_steps: int | None
    batch_size: int | None
    at_steps: float | None
    ratio: float | None
    low: float | None
    high: float | None
    kind: str
    stopped: float | None = None
    stopped_low: float | None = None
    stopped_high: float | None = None
    stopped_kind: str = ""
    prompt_tokens: int | None = None
    not_at: float | None = None
    as_fast_at: float | None = None


def answers() -> Iterator[Answer]:
    """Every curve against every baseline at every batch size."""
    times = times_here()
    for curve in curves(read_published(PUBLISHED)):
        found = []
        for batch_size in BATCH_SIZES if curve.parity.outcome != "not_reached" else ():
            found += _timed(times, curve, batch_size)
        yield from found or [_answer(curve, None, None, None)]


def _timed(times: Times, curve: PublishedCurve, batch_size: int) -> Iterator[Answer]:
    """The answer at one batch size; nothing where the times of the shape are not known."""
    parity = curve.parity
    at = parity.steps or curve.points[-1].forwards
    plausible = parity.plausible_steps() if parity.steps else (at,)
    row = next(r for r in curve.points if r.forwards == at)
    baseline, target = times.baseline(batch_size, row), times.target(batch_size, row)
    if baseline is None or target is None:
        return
    slower = [t for r in curve.points if r.forwards in plausible and (t := times.target(batch_size, r))]
    ended = times.baseline(batch_size, row, STOPPED)
    yield _answer(curve, batch_size, row, _spanned(baseline, target, slower), ended and _spanned(ended, target, slower))


def _spanned(baseline: Seconds, target: Seconds, others: Sequence[Seconds]) -> Seconds:
    """The ratio at `target`, with an interval and a kind that cover the others too."""
    ratios = [baseline.over(t) for t in others]
    kind = max((r.kind for r in ratios), key=KINDS.index)
    return Seconds(baseline.over(target).value, min(r.low for r in ratios), max(r.high for r in ratios), kind)


def _answer(
    curve: PublishedCurve,
    batch_size: int | None,
    row: PublishedScore | None,
    ratio: Seconds | None,
    stopped: Seconds | None = None,
) -> Answer:
    first, parity, at = curve.points[0], curve.parity, None if row is None else row.steps or row.nfe
    worse = [r.forwards for r in curve.points if parity.low_steps is not None and r.forwards < parity.low_steps]
    ends = [None if r is None else [round(v, 4) for v in (r.value, r.low, r.high)] for r in (ratio, stopped)]
    return Answer(
        variant=first.variant,
        task=first.task,
        rule=first.commit,
        new_tokens=first.new_tokens,
        block_length=first.block_length,
        cache=first.cache,
        quality_source=first.source,
        baseline=curve.baseline.value,
        baseline_source=curve.baseline.source,
        allowance=round(curve.allowance, 2),
        outcome=parity.outcome,
        from_steps=parity.low_steps,
        to_steps=parity.steps,
        batch_size=batch_size,
        at_steps=at,
        **dict(zip(("ratio", "low", "high"), ends[0] or [None] * 3, strict=True)),
        kind=ratio.kind if ratio else "",
        **dict(zip(("stopped", "stopped_low", "stopped_high"), ends[1] or [None] * 3, strict=True)),
        stopped_kind=stopped.kind if stopped else "",
        prompt_tokens=first.prompt_tokens,
        not_at=max(worse, default=None),
        # Without a cache every step takes as long, and with one no row is timed.
        as_fast_at=None if ratio is None or at is None else round(at * ratio.value, 1),
    )


def measured_break_evens(study: Study) -> list[frames.Row]:
    """The break-evens of a run at the shapes of the figure, without a cache."""
    rows = []
    for curve in study.curves:
        cell, line = curve.points[0].cell, curve.break_even
        prompts = BREAK_EVEN_PROMPTS.get(int(cell.knob("block_length") or cell.new_tokens), ())
        is_shown = (
            cell.prompt_tokens in prompts and cell.new_tokens == NEW_TOKENS and cell.knob("cache") in (None, "none")
        )
        if is_shown and line is not None and line.steps is not None and line.steps > 0:
            kind = "extrapolated" if line.is_extrapolated else "measured"
            row = frames.curve_row(curve, kind, device="", source="") | frames.break_even_columns(line)
            rows.append(row | {"series": f"LLaDA, block {cell.knob('block_length') or NEW_TOKENS}"})
    return rows


def break_evens() -> pd.DataFrame:
    """The table of `breakeven_map` at the shapes of the tasks: k* predicted and, where there is a run, measured."""
    times = times_here()
    efficiencies = {label: c.efficiencies for label, c in times.fits.items()}
    found, rows = curves(read_published(PUBLISHED)), measured_break_evens(analyse(times.run))
    base = next(c for c in times.cells.values() if c.model.role == "baseline")
    for block, prompts in BREAK_EVEN_PROMPTS.items():
        target = next(c for c in times.cells.values() if c.knob("block_length") == block)
        models = [(c, times.known[c.model.key]) for c in (base, target)]
        shapes = [(p, NEW_TOKENS, b) for p in prompts for b in ALL_BATCH_SIZES]
        shared = {"series": f"LLaDA, block {block}", "new_tokens": NEW_TOKENS}
        for point in break_even_surface(models[0], models[1], times.device, shapes, efficiencies):
            place = {"prompt_tokens": point.prompt_tokens, "batch_size": point.batch_size, "steps": point.steps}
            rows.append({"kind": "predicted", "device": times.device.name, "source": "", **shared, **place})
        for curve in found:
            first = curve.points[0]
            # An adaptive rule's forwards are no K of a fixed schedule; at each batch size, the score is the same.
            if first.steps and first.block_length == block and first.prompt_tokens in prompts and first.cache == "none":
                parity = shared | published_row(curve) | {"kind": "published", "prompt_tokens": first.prompt_tokens}
                rows += [parity | {"batch_size": b, "device": ""} for b in BATCH_SIZES]
    return frames.table(breakeven_map.COLUMNS, rows, "")


def break_even_part(frame: pd.DataFrame) -> str:
    """The figure of `break_evens` with its caption, for the page."""
    return (
        f"![break-even and parity]({BREAK_EVENS.name}.png)\n\n{breakeven_map.caption(frame)} Prompts of 132 tokens "
        "are HumanEval's, 628 MBPP's, 680 MATH's, 894 GSM8K's (block 32: instruct). Without a bar, no K is shown "
        "to be as good. Where bars are above the line, LLaMA is faster at equal quality "
        f"([points]({BREAK_EVENS.name}.csv))."
    )


def page_table(rows: Sequence[Answer]) -> str:
    """One line for each curve and baseline: where parity lies, and who is faster there."""
    lines = []
    for curve in group_by(rows, _line).values():
        first = curve[0]
        rule = "threshold" if first.rule == "threshold" else "fixed steps"
        at = {r.batch_size: r for r in curve}
        fast = at[1].as_fast_at if 1 in at else None
        lines.append(
            (
                f"{TASKS[first.task]}, {first.variant}, {rule}",
                f"{first.prompt_tokens}+{first.new_tokens}" if first.prompt_tokens else "",
                f"{first.baseline:g} ({first.baseline_source.partition(',')[0]})",
                _where(first),
                "" if fast is None else f"{fast:.0f}",
                *(_speed(at[b]) if b in at else "" for b in BATCH_SIZES),
                _times(curve),
            )
        )
    lengths, speeds = "prompt + new tokens", [f"LLaDA at B={b}" for b in BATCH_SIZES]
    return markdown(("task", lengths, "LLaMA's score", "as good from K", "as fast at K, B=1", *speeds, "times"), lines)


def _line(answer: Answer) -> tuple[object, ...]:
    """Equal for answers that are one line of the table: they differ in batch size alone."""
    setting = answer.variant, answer.task, answer.rule, answer.new_tokens, answer.block_length, answer.cache
    return *setting, answer.quality_source, answer.baseline, answer.baseline_source


def _times(curve: Sequence[Answer]) -> str:
    """Where the times of a line come from."""
    kinds = group_by([r for r in curve if r.kind], lambda r: r.kind)
    if len(kinds) == 1:
        return next(iter(kinds))
    return ", ".join(f"{kind} at {', '.join(f'B={r.batch_size}' for r in of)}" for kind, of in kinds.items())


def paper_table(rows: Sequence[Answer]) -> str:
    """One line for each answer with its numbers as they are in the CSV; a ratio above 1 means that LLaDA is faster."""
    lines = [
        (
            *(TASKS[r.task], r.variant, r.rule.replace("_", " "), f"{r.baseline:g}", f"{r.allowance:g}", _where(r)),
            *("" if v is None else f"{v:g}" for v in (r.batch_size, r.at_steps)),
            "" if r.ratio is None else f"{r.ratio:.2g} ({r.low:.2g} to {r.high:.2g})",
            "" if r.stopped is None else f"{r.stopped:.2g} ({r.stopped_low:.2g} to {r.stopped_high:.2g})",
            r.kind if r.stopped_kind in ("", r.kind) else f"{r.kind}, {r.stopped_kind}",
        )
        for r in rows
    ]
    header = (
        "task",
        "variant",
        "rule",
        "LLaMA",
        "allowance",
        "as good from K",
        "B",
        "at K",
        "LLaDA's speed in LLaMA's",
        f"LLaMA ends after {STOPPED}",
    )
    return markdown((*header, "times"), lines)


def summary(rows: Sequence[Answer]) -> str:
    """The base tasks in a sentence each way: where parity is reached, and how fast LLaDA is there."""
    base = [r for r in rows if r.variant == "base"]
    reached = [r for r in base if r.to_steps is not None]
    names = {True: dict.fromkeys(TASKS[r.task] for r in reached)}
    names[False] = dict.fromkeys(TASKS[r.task] for r in base if r.to_steps is None)
    speeds = "; ".join(
        f"{TASKS[r.task]} at batch {r.batch_size}: {_speed(r)}, {r.kind}" for r in reached if r.batch_size is not None
    )
    return (
        f"Base models: shown to be as good on {', '.join(names[True]) or 'no task'}; not shown on "
        f"{', '.join(names[False]) or 'none'}. LLaDA's speed there: {speeds}."
    )


def _where(answer: Answer) -> str:
    if answer.outcome == "not_reached":
        return "worse at every K published"
    if answer.to_steps is None:
        return f"{answer.from_steps} or more, or never" if answer.from_steps else "undecided"
    if answer.outcome == "reached_at_smallest":
        return f"<= {answer.to_steps}"
    is_one = answer.from_steps in (None, answer.to_steps)
    span = f"{answer.to_steps}" if is_one else f"{answer.from_steps} to {answer.to_steps}"
    return span if answer.not_at is None else f"{span} (not {answer.not_at:g})"


def _speed(answer: Answer) -> str:
    """LLaDA's speed in LLaMA's: "1.6x slower (1.4 to 1.9)"."""
    if answer.ratio is None or answer.low is None or answer.high is None:
        return ""
    is_faster = answer.ratio >= 1
    value, *ends = (x if is_faster else 1 / x for x in (answer.ratio, answer.low, answer.high))
    value_text, low_text, high_text = (f"{x:.2g}" if x < 10 else f"{x:.0f}" for x in (value, min(ends), max(ends)))
    text = f"{value_text}x {'faster' if is_faster else 'slower'} ({low_text} to {high_text})"
    if answer.low < 1 < answer.high:
        text = f"{1 / answer.low:.2g}x slower to {answer.high:.2g}x faster"
    at = "" if answer.to_steps is not None else f" at {answer.at_steps:g}"
    return text + at


def measured_answer() -> str:
    """The answer of MEASURED: headline and rows."""
    answer = answer_of(analyse(read_run(MEASURED)))
    rows = [[text for _, text in row] for row in answer.table.texts]
    return f"{answer.headline}\n\n{markdown(answer.table.headings, rows)}"


def main() -> None:
    """Write the answers."""
    rows = list(answers())
    with ANSWER.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    frame = break_evens()
    speeds.write_figure(BREAK_EVENS, breakeven_map.chart, frame)
    write_part(PAGE, "answer", f"{page_table(rows)}\n\n{break_even_part(frame)}")
    write_part(PAPER, "summary", summary(rows))
    write_part(PAPER, "paper", paper_table(rows))
    write_part(PAPER, "speeds", speeds.write())
    write_part(README, "measured", measured_answer())
    write_part(README, "study", page_table([r for r in rows if r.variant == "base"]))


if __name__ == "__main__":
    main()
