"""Join published quality of LLaDA-8B and LLaMA-3-8B with the time of their steps: who is faster at equal quality?

    python benchmarks/study.py    # writes docs/study/answer.csv, the tables of its README, paper.md and the README, and
                                  # the cost model beside published speeds (benchmarks/speeds.py)

Quality is what others have published (docs/study/published.csv). Times come from runs of `make study-run`, one for each
engine: measured, or on the line through the step counts that were measured. Other shapes are predicted by the cost
model fitted to these runs and older ones on the same device.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import pandas as pd
import speeds
from study_times import (
    BATCH_SIZES,
    KINDS,
    NEW_TOKENS,
    RUNS,
    STUDY,
    Seconds,
    Times,
    at_fixed_steps,
    elsewhere,
    in_words,
    memory_law,
    resources,
    times_of,
    union,
)
from tables import markdown, write_part

from dlmbench.analysis.parity import Outcome, ParityRange
from dlmbench.analysis.published import PublishedCurve, PublishedScore, curves, read_published
from dlmbench.analysis.results import Study
from dlmbench.analysis.stats import group_by
from dlmbench.charts import figure, frames
from dlmbench.figures import breakeven_map
from dlmbench.figures.breakeven_map import published_row
from dlmbench.roofline.break_even import break_even_surface

README = STUDY.parents[1] / "README.md"
BREAK_EVENS = STUDY / "breakeven"
# Not "random" alone, by which a figure is stamped as one without quality: here the quality is that of trained weights.
TIMED_WEIGHTS = "random, for times"
SHOWN = ("latency_vs_steps", "energy_per_token", "measured_vs_roofline")
PAGE, PAPER = STUDY / "README.md", STUDY / "paper.md"
ANSWER, PUBLISHED = STUDY / "answer.csv", STUDY / "published.csv"
TASKS = {"gsm8k": "GSM8K", "math": "MATH", "humaneval": "HumanEval", "mbpp": "MBPP", "bbh": "BBH"}
ALL_BATCH_SIZES = (1, 2, 4, 8, 16, 32)
# By block length: the mean prompts of the tasks whose published curves have it.
BREAK_EVEN_PROMPTS: dict[int, tuple[int, ...]] = {256: (132, 628, 680, 894), 32: (894,)}
# In use LLaMA ends with its answer, while LLaDA computes all positions. No source states the length of the answers.
STOPPED = 128


@dataclass(frozen=True)
class Answer:
    """One row of the answer: where a curve reaches a baseline, and LLaMA's time over LLaDA's there.

    published_to: the most steps with a score. from_steps, to_steps: where parity may lie among the published step
    counts; None where beyond them or nowhere.
    ratio: at S_parity; where it is not reached, at the most steps published. low, high: over every step count where
    parity may lie. kind: of the times behind it; "" for none.
    stopped: the same for a LLaMA that ends after STOPPED tokens. not_at: the most steps published at which LLaDA is not
    as good. as_fast_at: the steps at which it takes as long as LLaMA. cells: those behind the times, each as "run
    folder/cell id"; of predicted times the runs alone.
    """

    variant: str
    task: str
    rule: str
    new_tokens: int | None
    block_length: int | None
    cache: str
    engine: str
    quality_source: str
    baseline: float
    baseline_source: str
    allowance: float
    outcome: Outcome
    published_to: int
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
    cells: str = ""
    stopped_cells: str = ""


def answers() -> Iterator[Answer]:
    """Every curve against every baseline with every engine at every batch size.

    With a cache a single step count is a curve: so few are published that it is all there is.
    """
    rows = read_published(PUBLISHED)
    for curve in (c for c in curves(rows, 1) if len(c.points) > 1 or c.points[0].cache != "none"):
        found = []
        for engine in RUNS if curve.parity.outcome != "not_reached" else ():
            for batch_size in BATCH_SIZES:
                found += _timed(times_of(engine), curve, batch_size)
        if found or len(curve.points) > 1:
            yield from found or [_answer(curve, "", None, None, None)]


def _timed(times: Times, curve: PublishedCurve, batch_size: int) -> Iterator[Answer]:
    """The answer at one batch size; nothing where the times of the shape are not known."""
    parity = curve.parity
    at = parity.steps or curve.points[-1].forwards
    plausible = parity.plausible_steps() or tuple(r.forwards for r in curve.points)
    row = next(r for r in curve.points if r.forwards == at)
    baseline, target = times.baseline(batch_size, row), times.target(batch_size, row)
    if baseline is None or target is None:
        return
    targets = [t for r in curve.points if r.forwards in plausible and (t := times.target(batch_size, r))]
    ended = times.baseline(batch_size, row, STOPPED)
    yield _answer(
        curve,
        times.engine,
        batch_size,
        row,
        _spanned(baseline, target, targets),
        ended and _spanned(ended, target, targets),
    )


def _spanned(baseline: Seconds, target: Seconds, others: Sequence[Seconds]) -> Seconds:
    """The ratio at `target`, with an interval and a kind that cover the others too."""
    ratio, ratios = baseline.over(target), [baseline.over(t) for t in others]
    kind = max((r.kind for r in ratios), key=KINDS.index)
    cells = union(ratio.cells, *(r.cells for r in ratios))
    return Seconds(ratio.value, min(r.low for r in ratios), max(r.high for r in ratios), kind, cells)


def _answer(
    curve: PublishedCurve,
    engine: str,
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
        engine=engine,
        quality_source=first.source,
        baseline=curve.baseline.value,
        baseline_source=curve.baseline.source,
        allowance=round(curve.allowance, 2),
        outcome=parity.outcome,
        published_to=curve.points[-1].forwards or 0,
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
        # Only without a cache does every step take as long.
        as_fast_at=None if ratio is None or at is None or first.cache != "none" else round(at * ratio.value, 2),
        cells=" ".join(ratio.cells) if ratio else "",
        stopped_cells=" ".join(stopped.cells) if stopped else "",
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
            row = frames.curve_row(curve, kind, device="", source="", weights=TIMED_WEIGHTS)
            row |= frames.break_even_columns(line)
            rows.append(row | {"series": f"LLaDA, block {cell.knob('block_length') or NEW_TOKENS}"})
    return rows


def break_evens() -> pd.DataFrame:
    """The table of `breakeven_map` at the shapes of the tasks: k* predicted and, where there is a run, measured."""
    times = times_of("native")
    efficiencies = {label: c.efficiencies for label, c in times.fits.items()}
    found, rows = curves(read_published(PUBLISHED)), measured_break_evens(times.study)
    base = next(c for c in times.cells.values() if c.model.role == "baseline")
    for block, prompts in BREAK_EVEN_PROMPTS.items():
        target = next(c for c in times.cells.values() if c.knob("block_length") == block)
        models = [(c, times.known[c.model.key]) for c in (base, target)]
        shapes = [(p, NEW_TOKENS, b) for p in prompts for b in ALL_BATCH_SIZES]
        shared = {"series": f"LLaDA, block {block}", "new_tokens": NEW_TOKENS, "weights": TIMED_WEIGHTS}
        for point in break_even_surface(models[0], models[1], times.device, shapes, efficiencies):
            place = {"prompt_tokens": point.prompt_tokens, "batch_size": point.batch_size, "steps": point.steps}
            rows.append({"kind": "predicted", "device": times.device.name, "source": "", **shared, **place})
        for curve in found:
            first = curve.points[0]
            # An adaptive rule's forwards are no K of a fixed schedule; at each batch size, the score is the same.
            if first.steps and first.block_length == block and first.prompt_tokens in prompts and first.cache == "none":
                parity = shared | published_row(curve) | {"kind": "published", "weights": "pretrained"}
                parity |= {"prompt_tokens": first.prompt_tokens}
                rows += [parity | {"batch_size": b, "device": ""} for b in BATCH_SIZES]
    return frames.table(breakeven_map.COLUMNS, rows, "")


def break_even_part(frame: pd.DataFrame) -> str:
    """The figure of `break_evens` with its caption, for the page."""
    text = breakeven_map.caption(frame, "efficiencies of the native engine, fitted to the marks and an older run")
    return (
        f"![break-even and parity]({BREAK_EVENS.name}.png)\n\n{text} In all panels: {NEW_TOKENS} new tokens. "
        "Prompts of 132 are HumanEval's, 628 MBPP's, 680 MATH's, 894 GSM8K's (block 32: instruct, against 70.1 only). "
        "Without a bar, no K is shown to be as good. Where bars are above the line, LLaMA is faster at equal quality "
        f"([points]({BREAK_EVENS.name}.csv))."
    )


def page_table(rows: Sequence[Answer]) -> str:
    """One line for each curve, baseline and engine: where parity lies, and who is faster there."""
    lines: list[tuple[str, ...]] = []
    for of_curve in group_by(rows, _question).values():
        first = of_curve[0]
        rule = "threshold" if first.rule == "threshold" else "fixed steps"
        cache = "" if first.cache == "none" else f", {first.cache} cache"
        question = (
            f"{TASKS[first.task]}, {first.variant}, {rule}{cache}",
            f"{first.prompt_tokens}+{first.new_tokens}" if first.prompt_tokens else "",
            f"{first.baseline:g} ({first.baseline_source.partition(',')[0]})",
            _where(first),
        )
        for engine, found in group_by(of_curve, lambda r: r.engine).items():
            at = {r.batch_size: r for r in found}
            fast = at[1].as_fast_at if 1 in at else None
            by_batch = (_speed(at[b]) if b in at else "" for b in BATCH_SIZES)
            lines.append((*question, engine, "" if fast is None else f"{math.floor(fast)}", *by_batch, _times(found)))
            question = ("as above", "", "", "")
    lengths, speed = "prompt + new tokens", [f"LLaDA at B={b}" for b in BATCH_SIZES]
    header = ("task", lengths, "LLaMA's score", "as good from K", "engine", "as fast at about K, B=1", *speed, "times")
    return markdown(header, lines)


def _question(answer: Answer) -> tuple[object, ...]:
    """Equal for answers to one question: they differ in engine and batch size alone."""
    setting = answer.variant, answer.task, answer.rule, answer.new_tokens, answer.block_length, answer.cache
    return *setting, answer.quality_source, answer.baseline, answer.baseline_source


def _times(answers: Sequence[Answer]) -> str:
    """Where the times of a line come from."""
    kinds = group_by([r for r in answers if r.kind], lambda r: r.kind)
    if len(kinds) == 1:
        return next(iter(kinds))
    return ", ".join(f"{kind} at {', '.join(f'B={r.batch_size}' for r in of)}" for kind, of in kinds.items())


def paper_table(rows: Sequence[Answer]) -> str:
    """One line for each answer with its numbers as they are in the CSV; a ratio above 1 means that LLaDA is faster."""
    lines = [
        (
            *(TASKS[r.task], r.variant, r.rule.replace("_", " "), "" if r.cache == "none" else r.cache),
            *(f"{r.baseline:g}", f"{r.allowance:g}", _where(r), r.engine),
            *("" if v is None else f"{v:g}" for v in (r.batch_size, r.at_steps)),
            "" if r.ratio is None else f"{r.ratio:.2g} ({r.low:.2g} to {r.high:.2g})",
            "" if r.stopped is None else f"{r.stopped:.2g} ({r.stopped_low:.2g} to {r.stopped_high:.2g})",
            r.kind if r.stopped_kind in ("", r.kind) else f"{r.kind}, {r.stopped_kind}",
        )
        for r in rows
    ]
    header = ("task", "variant", "rule", "cache", "LLaMA", "allowance", "as good from K", "engine", "B", "at K")
    return markdown((*header, "LLaDA's speed in LLaMA's", f"LLaMA ends after {STOPPED}", "times"), lines)


def summary(rows: Sequence[Answer]) -> str:
    """The base tasks in a sentence each way: where parity is reached, and how fast LLaDA is there."""
    base = [r for r in rows if r.variant == "base"]
    reached = [r for r in base if r.to_steps is not None and r.ratio is not None]
    shown = dict.fromkeys(TASKS[r.task] for r in reached)
    worse = dict.fromkeys(TASKS[r.task] for r in base if r.outcome == "not_reached")
    undecided = [name for name in dict.fromkeys(TASKS[r.task] for r in base) if name not in {**shown, **worse}]
    speeds_there = []
    for (task, engine), found in group_by(reached, lambda r: (r.task, r.engine)).items():
        batches = ", ".join(f"{_speed(r)} at batch {r.batch_size}" for r in found)
        speeds_there.append(f"{TASKS[task]} at K={found[0].at_steps:g} with {engine}: {batches} ({_times(found)})")
    return (
        f"Base models: shown to be as good on {', '.join(shown) or 'no task'}; undecided on "
        f"{', '.join(undecided) or 'none'}; worse on {', '.join(worse) or 'none'}. LLaDA's speed there, with 95% "
        f"intervals: {'; '.join(speeds_there)}."
    )


def _where(answer: Answer) -> str:
    text = ParityRange(answer.outcome, answer.to_steps, None, answer.from_steps).text(answer.published_to)
    return text if answer.to_steps is None or answer.not_at is None else f"{text}, not {answer.not_at:g}"


def _speed(answer: Answer) -> str:
    """LLaDA's speed in LLaMA's: "1.6x slower (1.4 to 1.9)"; without parity also at which steps."""
    if answer.ratio is None or answer.low is None or answer.high is None:
        return ""
    text = in_words(Seconds(answer.ratio, answer.low, answer.high, answer.kind))
    if answer.to_steps is not None:
        return text
    is_one = answer.from_steps in (None, answer.at_steps)
    return f"{text} at {answer.at_steps:g}" if is_one else f"{text} at {answer.from_steps} to {answer.at_steps:g}"


def task_figures() -> list[figure.Figure]:
    """The figures of the study's native run that the paper shows."""
    times = times_of("native")
    return [f for f in figure.figures_of(times.runs[0], times.study) if f.name in SHOWN]


def figures_part(figures: Sequence[figure.Figure]) -> str:
    """The figures with their captions, for the paper."""
    folder = f"{RUNS['native'][0].name}/figures"
    texts = (f"![{f.title}]({folder}/{f.name}.png)\n\n{f.caption}" for f in figures)
    return "\n\n".join(texts)


def main() -> None:
    """Write the answers."""
    rows = sorted(answers(), key=lambda r: r.variant)  # base first
    with ANSWER.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    frame = break_evens()
    speeds.write_figure(BREAK_EVENS, breakeven_map.chart, frame)
    write_part(PAGE, "answer", f"{page_table(rows)}\n\n{break_even_part(frame)}")
    write_part(PAPER, "summary", summary(rows))
    write_part(PAPER, "paper", paper_table(rows))
    write_part(PAPER, "fixed", at_fixed_steps())
    write_part(PAPER, "resources", resources())
    write_part(PAPER, "memory", memory_law())
    drawn = figure.draw(task_figures(), RUNS["native"][0])
    for picture in drawn:
        (RUNS["native"][0] / picture.picture).with_suffix(".pdf").unlink()
    write_part(PAPER, "figures", figures_part(drawn))
    write_part(PAPER, "elsewhere", elsewhere())
    write_part(PAPER, "speeds", speeds.write())
    write_part(README, "study", page_table([r for r in rows if r.variant == "base"]))


if __name__ == "__main__":
    main()
