"""Negative log-likelihood of generated text under an autoregressive judge, in nats per token of the judge.

Low is cheap: greedy and repetitive texts are likelier than true ones. Read it beside unigram_entropy, distinct_n and
repetition, and against judge_truth: a value below the true text's is a warning, not a win. A judge that is itself a
model of the run is allowed, and flagged.
"""

from __future__ import annotations

from collections.abc import Iterator

from dlmbench.scoring.generated import generated_texts
from dlmbench.scoring.judge import JudgeSettings, judge_of
from dlmbench.scoring.judge import prepare as _prepare
from dlmbench.scoring.reference import sizes
from dlmbench.types import MetricRequest, Texts, TextScore, Unscored

UNIT = "nats/token"
HIGHER_IS_BETTER = False
NEEDS = ("generations", "own model")
SETTINGS = JudgeSettings
RANK = 30


def prepare(settings: JudgeSettings) -> MetricRequest:
    """Find the judge; raises BenchError where there is none or it is no causal model."""
    return _prepare("judge_likelihood", settings)


def score(texts: Texts) -> Iterator[TextScore | Unscored]:
    """One value per generation, after its prompt."""
    cell = texts.cell
    for found in generated_texts(texts, "judge_likelihood"):
        if isinstance(found, Unscored):
            yield found
            continue
        prompt, _, text = found
        judged = judge_of(texts).read(prompt.text or "", text)
        if judged.reason:
            yield Unscored(cell.id, "judge_likelihood", prompt.index, judged.reason)
            continue
        size_bytes, words = sizes(text)
        yield TextScore(
            cell.id,
            "judge_likelihood",
            prompt.index,
            judged.nats,
            judged.tokens,
            size_bytes=size_bytes,
            words=words,
        )
