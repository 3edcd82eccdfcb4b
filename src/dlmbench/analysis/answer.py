"""The answer in plain English, and the rows of the printed table.

Three questions in the reader's order: how many steps does diffusion need to write as well as the baseline, is it faster
there, and up to how many steps is it faster at all. Only what was measured is said; what was not is named.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dlmbench.analysis.breakeven import BreakEven
from dlmbench.analysis.stats import Interval
from dlmbench.analysis.study import RANDOM_WEIGHTS, CellSummary, Curve, MetricParity, Study
from dlmbench.types import Cell

# Beyond so many settings a paragraph is no longer read; the rest is counted, and stands in the table.
MOST_SETTINGS = 6


@dataclass(frozen=True)
class SummaryRow:
    """One line of the printed table; None where not measured. memory_source says which memory it is."""

    model: str
    steps: int | None
    block_length: int | None
    batch_size: int
    prompt_tokens: int
    new_tokens: int
    status: str
    latency_s: float | None
    latency_low_s: float | None
    latency_high_s: float | None
    tokens_per_s: float | None
    memory_bytes: int | None
    memory_source: str | None
    likelihood: float | None
    validity: float | None
    speedup: float | None
    n: int


def summary_rows(study: Study) -> list[SummaryRow]:
    """A row for every cell, baselines first, then the curves by ascending steps. likelihood is nats/token of the
    reference (lower is better), validity a share, speedup the baseline's latency over the cell's, n timed repetitions.
    """
    return [_row(study, c) for c in study.cells]


def _row(study: Study, summary: CellSummary) -> SummaryRow:
    cell = summary.cell
    latency, memory = summary.latency, summary.memory
    likelihood, validity = summary.quality_in("likelihood"), summary.quality_in("oracle_validity")
    return SummaryRow(
        model=study.label(cell),
        steps=cell.steps,
        block_length=block_length(cell),
        batch_size=cell.batch_size,
        prompt_tokens=cell.prompt_tokens,
        new_tokens=cell.new_tokens,
        status=summary.status or "not measured",
        latency_s=latency.median if latency else None,
        latency_low_s=latency.low if latency else None,
        latency_high_s=latency.high if latency else None,
        tokens_per_s=summary.throughput.median if summary.throughput else None,
        memory_bytes=memory.bytes if memory else None,
        memory_source=memory.source if memory else None,
        likelihood=likelihood.value if likelihood else None,
        validity=validity.value if validity else None,
        speedup=summary.speedup.value if summary.speedup else None,
        n=latency.n if latency else 0,
    )


def block_length(cell: Cell) -> int | None:
    """Positions a block: of a diffusion cell without a set length all its new tokens, of a baseline None."""
    value = cell.knob("block_length")
    if isinstance(value, int):
        return value
    return cell.new_tokens if cell.model.role == "target" else None


def answer(study: Study) -> str:
    """One paragraph for a newcomer: quality parity, the speedup there, the break-even, and what follows."""
    if not study.curves:
        reason = "; ".join(study.missing) or "no cell has a step count"
        return f"There is nothing to compare yet: {reason}."
    if not study.baselines:
        return (
            f"{_models(study)} was measured alone. Without an autoregressive baseline in the run there is no parity, "
            "no speedup and no break-even."
        )
    groups: dict[tuple[object, ...], list[Curve]] = {}
    for curve in study.curves:
        groups.setdefault((curve.label, curve.prompt_tokens, curve.new_tokens), []).append(curve)
    sentences = [f"{_models(study)} (diffusion) against {study.baselines[0].cell.model.key} (autoregressive)."]
    shown = 0
    for curves in groups.values():
        if shown and shown + len(curves) > MOST_SETTINGS:
            continue
        shown += len(curves)
        sentences += _group(curves, name_it=len(groups) > 1)
    if shown < len(study.curves):
        rest = len(study.curves) - shown
        sentences.append(f"{rest} more of {len(study.curves)} settings are in the table, not in this paragraph.")
    return " ".join(sentences)


def _models(study: Study) -> str:
    return " and ".join(dict.fromkeys(c.model for c in study.curves))


def _group(curves: Sequence[Curve], name_it: bool) -> list[str]:
    """The curves that differ only in batch size: one statement on quality, one on speed for each."""
    first = curves[0]
    where = f"With {first.new_tokens} new tokens after {first.prompt_tokens}-token prompts"
    if name_it:
        where += f" ({first.label})"
    parity = headline(first)
    sentences = [f"{where}: {_quality(first, parity)}."]
    sentences += [s for c in curves if (s := _speed(c, headline(c)))]
    return sentences


def headline(curve: Curve) -> MetricParity | None:
    """The parity that leads: by likelihood if it was scored, else by the first metric there is; at delta 0."""
    exact = [p for p in curve.parities if p.parity.delta == 0]
    return next((p for p in exact if p.metric.name == "likelihood"), exact[0] if exact else None)


def _quality(curve: Curve, headline_parity: MetricParity | None) -> str:
    if headline_parity is None:
        if curve.weights == "random":
            return RANDOM_WEIGHTS
        return "quality was not measured for both models, so parity is unknown"
    metric, parity = headline_parity.metric, headline_parity.parity
    name = "the likelihood of the true text" if metric.name == "likelihood" else metric.name.replace("_", " ")
    last = parity.points[-1]
    base = curve.quality_baseline.cell.model.key if curve.quality_baseline else "the baseline"
    if parity.outcome == "reached":
        text = f"quality parity with {base} by {name} is reached at K={parity.steps} diffusion steps"
    elif parity.outcome == "reached_at_smallest":
        text = f"quality parity with {base} by {name} is reached already at the smallest K measured, {parity.steps}"
    elif parity.outcome == "not_reached":
        text = f"quality parity with {base} by {name} is not reached up to K={last.steps} ({_gap(headline_parity)})"
    else:
        text = f"quality parity with {base} by {name} is undecided up to K={last.steps} ({_gap(headline_parity)})"
    if parity.literal_steps is not None and parity.literal_steps != parity.steps:
        text += f"; K={parity.literal_steps} passes by itself, but a larger K does not"
    if not parity.is_monotone:
        text += "; more steps do not always help here"
    if not parity.reached:
        text += _with_margin(curve, headline_parity)
    return text + f" ({parity.n} prompts)"


def _gap(shown: MetricParity) -> str:
    last = shown.parity.points[-1]
    gap = last.gap
    word, low, high, value = "better", gap.low, gap.high, gap.value
    if value < 0:
        word, low, high, value = "worse", -gap.high, -gap.low, -value
    text = f"at K={last.steps} it is {value:.3g} {shown.metric.unit} {word}, 95% interval {low:.3g} to {high:.3g}"
    if shown.metric.log_scale and gap.value < 0:
        text += f": a perplexity {math.expm1(value):.0%} higher"
    return text


def _with_margin(curve: Curve, shown: MetricParity) -> str:
    """What allowing a margin changes."""
    parts = []
    for other in curve.parities:
        delta, steps = other.parity.delta, other.parity.steps
        if other.metric != shown.metric or delta == 0:
            continue
        allowed = f"{delta:.0%} more perplexity" if other.metric.log_scale else f"a margin of {delta:g}"
        if steps is not None:
            small = " (the smallest measured)" if other.parity.outcome == "reached_at_smallest" else ""
            parts.append(f"allowing {allowed}, K={steps}{small} is enough{_in_brackets(other)}")
        else:
            parts.append(f"allowing {allowed}, it is {other.parity.outcome.replace('_', ' ')}")
    return "".join(f"; {p}" for p in parts)


def _in_brackets(shown: MetricParity) -> str:
    speedup = shown.speedup.latency if shown.speedup else None
    return f" (there {_ratio(speedup)} at this batch size)" if speedup else ""


def _speed(curve: Curve, shown: MetricParity | None) -> str:
    """Speed at parity, then break-even, then what both mean, for one batch size."""
    where = f"At batch size {curve.batch_size}"
    if curve.baseline is None or curve.baseline.latency is None:
        return f"{where} the baseline was not timed, so no speedup is known."
    if not any(p.latency for p in curve.points):
        reason = next((p.reason or p.status for p in curve.points), "not measured")
        return f"{where} diffusion was not timed ({reason})."
    parts = []
    speedup = shown.speedup.latency if shown and shown.speedup else None
    if shown and shown.parity.reached:
        if speedup is not None and shown.speedup is not None:
            text = f"at K={shown.parity.steps} diffusion is {_ratio(speedup)}"
            if shown.speedup.share_reached < 0.95:
                text += f", parity being found again in {shown.speedup.share_reached:.0%} of resamples"
            parts.append(text)
        else:
            parts.append(f"K={shown.parity.steps} was not timed, so the speedup at parity is unknown")
    parts.append(_crossing(curve))
    return f"{where} {'; '.join(parts)}. {_verdict(shown, speedup, curve)}".strip()


def _ratio(speedup: Interval) -> str:
    """A speedup in words that keep the number: 2.00x as fast."""
    return f"{speedup.value:.2f}x as fast as the baseline (95% interval {speedup.low:.2f} to {speedup.high:.2f})"


def _crossing(curve: Curve) -> str:
    line = curve.break_even
    timed = [p for p in curve.points if p.latency]
    if line is None:
        only = timed[0]
        if only.speedup is None:
            return f"only K={only.cell.steps} was timed, so no break-even is known"
        return f"only K={only.cell.steps} was timed, and there diffusion is {_ratio(only.speedup)}"
    if line.steps is None:
        return f"no break-even: {line.reason}"
    if line.steps < 1:
        return "diffusion would be slower even with one step"
    text = f"the two take equally long at K={_steps(line.steps)} (break-even"
    if line.low is not None and line.high is not None:
        text += f", 95% interval {_steps(line.low)} to {_steps(line.high)}"
    if line.is_extrapolated:
        text += f", extrapolated from K={timed[0].cell.steps} to {timed[-1].cell.steps}"
    return text + "): fewer steps are faster than the baseline, more are slower"


def _steps(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _verdict(shown: MetricParity | None, speedup: Interval | None, curve: Curve) -> str:
    if shown is None:
        return ""
    if speedup is not None:
        if speedup.low > 1:
            return "So diffusion wins here: as good and faster."
        if speedup.high < 1:
            return "So the baseline wins here: to be as good, diffusion takes longer."
        return "So the two cannot be told apart in speed at equal quality."
    if shown.parity.outcome == "not_reached":
        return _trade(curve.break_even)
    if shown.parity.outcome == "undecided":
        return "So which one wins at equal quality is undecided: more prompts would tell."
    return ""


def _trade(line: BreakEven | None) -> str:
    if line is not None and line.steps is not None and line.steps >= 1:
        return "So at these step counts diffusion can be faster, but only with worse text."
    return "So at these step counts the baseline wins on quality."
