"""Negative log-likelihood of generated text under an autoregressive judge, in nats per token of the judge.

Low is cheap: greedy and repetitive texts are likelier than true ones. Read it beside unigram_entropy, distinct_n and
repetition, and against judge_truth: a value below the true text's is a warning, not a win. A judge that is itself a
model of the run is allowed, and flagged.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from dlmbench.scoring.judge import JudgeSettings, judge_text, prepare_judge
from dlmbench.scoring.texts import generated_texts
from dlmbench.types import Texts, TextScore, Unscored

UNIT = "nats/token"
HIGHER_IS_BETTER = False
ROLE = "quality"
MARGIN = 0.1
MARGINS = (0.2,)
NEEDS = ("generations", "own model")
SETTINGS = JudgeSettings
RANK = 30
prepare = partial(prepare_judge, "judge_likelihood")


def score(texts: Texts) -> Iterator[TextScore | Unscored]:
    """One value per generation, after its prompt."""
    for item in generated_texts(texts, "judge_likelihood"):
        if isinstance(item, Unscored):
            yield item
        else:
            prompt, _, text = item
            yield judge_text(texts, "judge_likelihood", prompt.index, prompt.text or "", text)
