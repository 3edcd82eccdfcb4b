"""Join published quality of LLaDA-8B and LLaMA-3-8B with the time of their steps: who is faster at equal quality?

    python benchmarks/study.py    # writes docs/study/answer.csv, the table of docs/study/README.md and the README's

Quality is what others have published (docs/study/published.csv). A time is measured where a run folder of docs/study
has the cell, and otherwise predicted by the cost model fitted to docs/study/h200-native, and marked so.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tables import markdown, write_part

from dlmbench.analysis.parity import Parity
from dlmbench.analysis.published import PublishedCurve, PublishedScore, curves, read_published
from dlmbench.analysis.replication import latencies
from dlmbench.analysis.stats import group_by
from dlmbench.experiment import load, plan
from dlmbench.models.loading import architectures
from dlmbench.results import read_run
from dlmbench.roofline import calibrate, corrected
from dlmbench.types import Architecture, Cell

STUDY = Path(__file__).parents[1] / "docs/study"
README = STUDY.parents[1] / "README.md"
PAGE, ANSWER, PUBLISHED = STUDY / "README.md", STUDY / "answer.csv", STUDY / "published.csv"
CONFIG = STUDY.parents[1] / "config/experiments_study.yaml"
CALIBRATED = STUDY / "h200-native"
# Mean prompt tokens by LLaDA's tokenizer (arXiv:2502.09992, appendix B.7); none is published for BBH.
PROMPT_TOKENS = {"gsm8k": 894, "math": 680, "mbpp": 628, "humaneval": 132}
TASKS = {"gsm8k": "GSM8K", "math": "MATH", "humaneval": "HumanEval", "mbpp": "MBPP", "bbh": "BBH"}
BATCH_SIZES = (1, 8, 32)


@dataclass(frozen=True)
class Seconds:
    """Seconds of one generation with a 95% interval. kind: measured or predicted."""

    value: float
    low: float
    high: float
    kind: str

    def over(self, other: Seconds) -> Seconds:
        """The ratio of two times, between the ends of both intervals."""
        kind = "measured" if self.kind == other.kind == "measured" else "predicted"
        return Seconds(self.value / other.value, self.low / other.high, self.high / other.low, kind)


class Times:
    """Times of the cells of CONFIG on the device of CALIBRATED."""

    def __init__(self) -> None:
        fitted = calibrate.calibrate_run(read_run(CALIBRATED))
        self.device = fitted.hardware
        self.fits = {c.label: c for c in fitted.calibrations}
        cells = plan.expand(load.load(CONFIG)).cells
        self.cells = {key: cell for cell in cells for key in [self.key(cell)]}
        self.known, _ = architectures(dict.fromkeys(c.model for c in cells))
        runs = [read_run(path.parent) for path in sorted(STUDY.glob("*/records.jsonl"))]
        self.measured = {
            cell_id: estimate.interval()
            for run in runs
            if run.environment is not None and run.environment.device == self.device.name
            for cell_id, estimate in latencies(run.results, run.selfcheck).items()
        }

    @staticmethod
    def key(cell: Cell) -> tuple[object, ...]:
        """What tells the cells of CONFIG apart."""
        block = cell.knob("block_length") if cell.steps else None
        return (cell.model.role, cell.batch_size, cell.prompt_tokens, cell.steps, block, cell.knob("cache") or "none")

    def baseline(self, batch_size: int, prompt_tokens: int) -> Seconds:
        """LLaMA's, for as many new tokens as LLaDA generates."""
        return self._of(self.cells["baseline", batch_size, prompt_tokens, None, None, "none"])

    def target(self, batch_size: int, prompt_tokens: int, row: PublishedScore) -> Seconds:
        """LLaDA's in the setting of a published row; of an adaptive rule for the forwards that were published."""
        at = (batch_size, prompt_tokens)
        steps = row.steps or 256
        cell = self.cells["target", *at, steps, row.block_length, row.cache]
        return self._of(cell, None if row.steps else row.nfe)

    def _of(self, cell: Cell, forwards: float | None = None) -> Seconds:
        if forwards is None and cell.id in self.measured:
            found = self.measured[cell.id]
            return Seconds(found.value, found.low, found.high, "measured")
        architecture: Architecture = self.known[cell.model.key]
        fit = self.fits[corrected.label_of(cell)]
        estimate = calibrate.estimate(fit, cell, architecture, self.device)
        assert estimate is not None
        # Without a cache all forwards are equal; with one, no published row says how many there are.
        scale = 1.0 if forwards is None else forwards / (cell.steps or 1)
        return Seconds(scale * estimate.value_s, scale * estimate.low_s, scale * estimate.high_s, "predicted")


@dataclass(frozen=True)
class Answer:
    """One row of the answer: where a curve reaches a baseline, and LLaMA's time over LLaDA's there.

    from_steps, to_steps: where parity may lie among the published step counts; None where beyond them or nowhere.
    ratio: at S_parity; where it is not reached, at the most steps published.
    """

    variant: str
    task: str
    rule: str
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


def answers() -> Iterator[Answer]:
    """Every curve against every baseline at every batch size."""
    times = Times()
    for curve in curves(read_published(PUBLISHED)):
        first, parity = curve.points[0], curve.parity
        prompt_tokens = PROMPT_TOKENS.get(first.task)
        if prompt_tokens is None or parity.outcome == "not_reached":
            yield _answer(curve, parity, None, None, None)
            continue
        for batch_size in BATCH_SIZES:
            baseline = times.baseline(batch_size, prompt_tokens)
            at = {row.forwards: baseline.over(times.target(batch_size, prompt_tokens, row)) for row in curve.points}
            row = next(r for r in curve.points if r.forwards == (parity.steps or curve.points[-1].forwards))
            spanned = [at[k] for k in parity.plausible_steps() if k in at] if parity.steps else [at[row.forwards]]
            ratio = at[row.forwards]
            ends = min(s.low for s in spanned), max(s.high for s in spanned)
            yield _answer(curve, parity, batch_size, row, Seconds(ratio.value, *ends, ratio.kind))


def _answer(
    curve: PublishedCurve, parity: Parity, batch_size: int | None, row: PublishedScore | None, ratio: Seconds | None
) -> Answer:
    first = curve.points[0]
    return Answer(
        variant=first.variant,
        task=first.task,
        rule=first.commit,
        quality_source=first.source,
        baseline=curve.baseline.value,
        baseline_source=curve.baseline.source,
        allowance=round(curve.allowance, 2),
        outcome=parity.outcome,
        from_steps=parity.low_steps,
        to_steps=parity.steps,
        batch_size=batch_size,
        at_steps=row and (row.steps or row.nfe),
        ratio=ratio and round(ratio.value, 4),
        low=ratio and round(ratio.low, 4),
        high=ratio and round(ratio.high, 4),
        kind=ratio.kind if ratio else "",
    )


def page_table(rows: Sequence[Answer]) -> str:
    """One line for each curve and baseline: where parity lies, and who is faster there."""
    lines = []
    for curve in group_by(rows, lambda r: (r.variant, r.task, r.rule, r.quality_source, r.baseline_source)).values():
        first = curve[0]
        rule = "threshold" if first.rule == "threshold" else "fixed steps"
        lines.append(
            (
                f"{TASKS[first.task]}, {first.variant}, {rule}",
                f"{first.baseline:g} ({first.baseline_source.partition(',')[0]})",
                _where(first),
                *(_speed(r) for r in curve),
                *[""] * (len(BATCH_SIZES) - len(curve)),
            )
        )
    header = ("quality", "LLaMA's score", "as good from K", *(f"LLaDA at B={b}" for b in BATCH_SIZES))
    return markdown(header, lines)


def _where(answer: Answer) -> str:
    if answer.outcome == "not_reached":
        return "worse at every K published"
    if answer.to_steps is None:
        return f"{answer.from_steps} or more, or never" if answer.from_steps else "undecided"
    if answer.from_steps in (None, answer.to_steps):
        return str(answer.to_steps)
    return f"{answer.from_steps} to {answer.to_steps}"


def _speed(answer: Answer) -> str:
    """LLaDA's speed in LLaMA's: "1.6x slower (1.4 to 1.9)"."""
    if answer.ratio is None or answer.low is None or answer.high is None:
        return ""
    is_faster = answer.ratio >= 1
    value, *ends = (x if is_faster else 1 / x for x in (answer.ratio, answer.low, answer.high))
    value_text, low_text, high_text = (f"{x:.2g}" if x < 10 else f"{x:.0f}" for x in (value, min(ends), max(ends)))
    text = f"{value_text}x {'faster' if is_faster else 'slower'} ({low_text} to {high_text})"
    if answer.low < 1 < answer.high:
        text = (
            f"{value_text}x {'faster' if is_faster else 'slower'} (or as fast: {answer.low:.2g}x to {answer.high:.2g}x)"
        )
    at = "" if answer.to_steps is not None else f" at {answer.at_steps:g}"
    return text + at


def main() -> None:
    """Write the answer."""
    rows = list(answers())
    with ANSWER.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    write_part(PAGE, "answer", page_table(rows))
    write_part(README, "study", page_table([r for r in rows if r.variant == "base"]))


if __name__ == "__main__":
    main()
