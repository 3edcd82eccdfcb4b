"""What was asked about use: chat, batch processing, long texts, cost, and what lies beyond this study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dlmbench.analysis.answer import block_length, headline
from dlmbench.analysis.equal_quality import Bill, at_equal_quality, bill
from dlmbench.analysis.study import CellSummary, Curve
from dlmbench.report.answers import Answer, Question, listing, not_measured, sentences, some, verdict, where
from dlmbench.report.numbers import counted, listed, seconds, sig, spread
from dlmbench.report.source import Source
from dlmbench.types import Cell

SERVER_BATCH = 8
LONG_TEXT = 1024


@dataclass(frozen=True)
class UseCase:
    """A way of using a model, and which settings of a run stand for it."""

    name: str
    condition: str
    holds: Callable[[Curve], bool]


INTERACTIVE = UseCase("interactive use", "B=1", lambda c: c.batch_size == 1)
BATCHED = UseCase("batch processing and servers", f"B>={SERVER_BATCH}", lambda c: c.batch_size >= SERVER_BATCH)
LONG = UseCase("long texts", f"N>={LONG_TEXT}", lambda c: c.prompt_tokens + c.new_tokens >= LONG_TEXT)
USE_CASES = (INTERACTIVE, BATCHED, LONG)


def curve_verdict(curve: Curve) -> str:
    """What one setting says: at equal quality where that is known, by speed alone where not."""
    shown = headline(curve)
    timed = [p for p in curve.points if p.speedup is not None]
    if not timed:
        return "not timed beside its baseline"
    if shown is not None and shown.parity.reached:
        ratio = shown.speedup.latency if shown.speedup else None
        at = f"at equal quality (K={shown.parity.steps})"
        if ratio is None:
            return f"{at} not timed"
        word = verdict(ratio, "faster", "slower", "not shown to be faster or slower")
        return f"{at} diffusion is {word}, {spread(ratio, 'x')} the baseline's speed"
    speed = _by_speed(timed)
    if shown is None:
        return f"equal quality unknown; by speed alone diffusion is {speed}"
    word = "is not reached" if shown.parity.outcome == "not_reached" else "is undecided"
    return f"equal quality {word} up to K={shown.parity.points[-1].steps}; by speed alone diffusion is {speed}"


def _by_speed(points: Sequence[CellSummary]) -> str:
    """Up to which measured step count diffusion is faster, and from which it is slower."""
    faster = [p.cell.steps for p in points if p.speedup and p.speedup.low > 1 and p.cell.steps]
    slower = [p.cell.steps for p in points if p.speedup and p.speedup.high < 1 and p.cell.steps]
    parts = []
    if faster:
        parts.append(f"faster at K={listed(faster)}")
    if slower:
        parts.append(f"slower at K={listed(slower)}")
    rest = [p.cell.steps for p in points if p.cell.steps not in (*faster, *slower)]
    if rest:
        parts.append(f"neither at K={listed(rest)}")
    return ", ".join(parts)


def fitness(use: UseCase) -> Callable[[Source], Answer]:
    """The settings of a use case and what each says."""

    def ask(source: Source) -> Answer:
        curves = [c for c in source.curves if use.holds(c)]
        if not curves:
            batches = listed(f"B={b}" for b in sorted({c.batch_size for c in source.curves}))
            lengths = listed(f"N={n}" for n in sorted({c.prompt_tokens + c.new_tokens for c in source.curves}))
            return not_measured(f"no diffusion setting has {use.condition} (there are {batches}; {lengths})")
        parts = [f"{c.label}, {where(c)}: {curve_verdict(c)}" for c in curves]
        if all(headline(c) is None for c in curves):
            return listing(
                [_balance(curves), "fitness needs quality as well, which was not measured"], parts, "in part"
            )
        return listing([_balance(curves)], parts)

    return ask


def _balance(curves: Sequence[Curve]) -> str:
    """How many settings go which way."""
    words = []
    for curve in curves:
        shown = headline(curve)
        ratio = shown.speedup.latency if shown and shown.speedup else None
        if shown is None or ratio is None:
            words.append("cannot be compared at equal quality, which is unknown, not reached or not timed")
        else:
            words.append(verdict(ratio, "favour diffusion", "favour the baseline", "show no difference"))
    counts = "; ".join(f"{words.count(w)} {w}" for w in dict.fromkeys(words))
    return f"of {counted(len(curves), 'setting')}, {counts}"


def first_text(source: Source) -> Answer:
    """Time until there is something to read: the first token, or the first finished block."""
    parts = []
    for curve in (c for c in source.curves if c.batch_size == 1):
        base = curve.baseline
        shown = [p for p in curve.points if p.first_text_s is not None and p.latency is not None]
        if base is None or base.first_text_s is None or not shown:
            continue
        ends = [shown[0]] if len(shown) == 1 else [shown[0], shown[-1]]
        texts = [_waiting(p) for p in ends]
        gap = f", then {seconds(base.inter_token_s)} a token" if base.inter_token_s else ""
        parts.append(
            f"{curve.label}, {where(curve)}: diffusion {'; '.join(texts)}; the baseline shows its first token after "
            f"{seconds(base.first_text_s)}{gap}"
        )
    if not parts:
        return not_measured("no setting at B=1 has the times inside a generation of both models")
    note = "how it feels to a reader was not measured: no reader was asked"
    return listing([note], parts, "in part")


def _waiting(point: CellSummary) -> str:
    assert point.first_text_s is not None
    whole = block_length(point.cell) == point.cell.new_tokens
    what = "shows nothing before the end" if whole else "shows its first finished block"
    return f"at K={point.cell.steps} {what} (after {seconds(point.first_text_s)})"


def cost(source: Source) -> Answer:
    """Both models' bills at equal quality; then energy over all step counts, beside the baseline's."""
    paid = [f"{c.label}, {where(c)}: {text}" for c in source.curves if (text := _paid(c))]
    found = []
    for curve in source.curves:
        base = _joules_per_token(curve.baseline)
        for p in curve.points:
            own = _joules_per_token(p)
            if base and own:
                found.append((own / base, own, base, p.cell))
    if not found:
        lead = "no setting has the energy of both models (it is read from the GPU's own counter)"
        return listing([lead], paid, "in part") if paid else not_measured(lead)
    parts = []
    for batch in sorted({f[3].batch_size for f in found}):
        here = [f for f in found if f[3].batch_size == batch]
        ends = (pick(here, key=lambda f: f[:3]) for pick in (min, max))
        parts += [_joules(f) for f in dict.fromkeys(ends)]
    note = "by the board's own counter, idle power included; the least and the most at each batch size"
    lead = sentences([f"energy a new token as a multiple of the baseline's: {note}"])
    return Answer(lead, items=(*some(paid), *some(parts, "cell")))


def _paid(curve: Curve) -> str:
    """What both models take where their quality is equal; nothing where that is not reached or not timed."""
    shown = headline(curve)
    bills = at_equal_quality(curve, shown) if shown else None
    if bills is None:
        return ""
    text = f"at equal quality (K={bills.steps}) diffusion writes {_bill(bills.target)}"
    text += f", the baseline {_bill(bills.baseline)}"
    if bills.energy is not None:
        text += f": {spread(bills.energy, 'x')} the baseline's energy a token"
    return text


def _bill(paid: Bill) -> str:
    rate = f"{spread(paid.tokens_per_s)} tokens/s"
    return rate if paid.joules_per_token is None else f"{rate} for {spread(paid.joules_per_token)} J a token"


def _joules(found: tuple[float, float, float, Cell]) -> str:
    ratio, own, base, cell = found
    return f"{where(cell)}, K={cell.steps}: {sig(ratio, 2)}x ({sig(own, 2)} J and {sig(base, 2)} J)"


def _joules_per_token(cell: CellSummary | None) -> float | None:
    paid = bill(cell)
    return paid.joules_per_token.value if paid and paid.joules_per_token else None


def other_models(source: Source) -> Answer:
    """Which diffusion models there are."""
    names = listed(dict.fromkeys(m.key for m in source.models if m.role == "target"))
    count = len([m for m in source.models if m.role == "target"])
    if count > 1:
        return Answer(f"In part: {names} were measured; see the tables.", "in part")
    return not_measured(f"{names} is the only diffusion model in this run")


QUESTIONS = (
    Question("question", "Is LLaDA responsive enough for interactive use?", fitness(INTERACTIVE)),
    Question(
        "claim",
        "LLaDA shows its text all at once and the autoregressive model streams, which makes LLaDA unfit for chat "
        "whatever its latency.",
        first_text,
    ),
    Question("question", "Is LLaDA fit for batch processing and servers?", fitness(BATCHED)),
    Question("question", "Is LLaDA fit for long texts?", fitness(LONG)),
    Question("question", "What does the choice of steps mean for the cost of deployment?", cost),
    Question("question", "Do other diffusion language models behave alike?", other_models),
)
