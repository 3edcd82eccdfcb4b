"""Why two measures of quality disagree on parity, in plain words.

A likelihood and a judgement of the generated text answer different questions. Where they name different step counts, a
reader should learn which question each has answered before taking the friendlier one.
"""

from __future__ import annotations

from dlmbench import registry
from dlmbench.analysis.nouns import Curve, MetricParity
from dlmbench.analysis.parity import Parity
from dlmbench.analysis.quality import metric_for

_QUESTIONS = (
    "They ask different things. The likelihood rates the model as a scorer: how probable it finds the true text, word "
    "by word, when it has K steps for it. Validity judges what the model wrote: the share of its own sentences that "
    "break no rule of the source"
)
_SAFE_WRITER = (
    "A model can write without mistakes by keeping to what it is sure of, and still find the less usual turns of true "
    "text improbable"
)
_GOOD_SCORER = (
    "A model can score well with the true words before its eyes and still slip when it has only its own: words chosen "
    "in the same step do not see each other, and a slip stays"
)
_SUREST_FIRST = (
    "Committing the surest words first helps writing more than scoring: the surprising words of a true text are left "
    "to be guessed together"
)


def why_parities_differ(curve: Curve, delta: float = 0.0) -> str | None:
    """Why parity by likelihood and by validity differ on `curve`; None where they agree or one was not measured."""
    scorer, writer = curve.parity(metric_for("likelihood"), delta), curve.parity(metric_for("validity"), delta)
    if scorer is None or writer is None or _place(scorer.parity) == _place(writer.parity):
        return None
    by = f"By likelihood parity is {_in_words(scorer.parity)}, by validity {_in_words(writer.parity)}"
    if "undecided" in (scorer.parity.outcome, writer.parity.outcome):
        unsure = scorer if scorer.parity.outcome == "undecided" else writer
        return f"{by}: {unsure.parity.n} prompts are too few to call this a contradiction. {_QUESTIONS}."
    if _asks_more(scorer.parity, writer.parity):
        parts = [by, _QUESTIONS, _SAFE_WRITER]
        if registry.attribute("commit", str(dict(curve.knobs).get("commit")), "SUREST_FIRST", False):
            parts.append(_SUREST_FIRST)
        parts += _repeats(curve, writer)
    else:
        parts = [by, _QUESTIONS, _GOOD_SCORER]
    return ". ".join(parts) + "."


def _place(parity: Parity) -> tuple[str, int | None]:
    return ("reached" if parity.reached else parity.outcome, parity.steps)


def _in_words(parity: Parity) -> str:
    largest = parity.points[-1].steps
    if parity.outcome == "reached_at_smallest":
        return f"reached at K={parity.steps} or before"
    if parity.reached:
        return f"reached at K={parity.steps}"
    return f"{parity.outcome.replace('_', ' ')} up to K={largest}"


def _asks_more(one: Parity, other: Parity) -> bool:
    """Whether `one` asks for more steps than `other`, or for more than there are."""
    if one.steps is None or other.steps is None:
        return one.steps is None
    return one.steps > other.steps


def _repeats(curve: Curve, writer: MetricParity) -> list[str]:
    """Whether the text that is valid also repeats itself, which validity does not punish."""
    point = curve.at(writer.parity.steps) if writer.parity.steps else None
    own = point.quality_in(metric_for("repetition")) if point else None
    base = curve.quality_baseline.quality_in(metric_for("repetition")) if curve.quality_baseline else None
    if own is None or base is None:
        return ["Whether it plays safe by repeating itself was not measured"]
    figures = f"{own.value:.0%} of its 4-grams are repeated at K={writer.parity.steps}, the baseline's {base.value:.0%}"
    if own.low is not None and base.high is not None and own.low > base.high:
        return [f"It also repeats itself, which no rule forbids: {figures}"]
    return [f"It does not do so by repeating itself: {figures}"]
