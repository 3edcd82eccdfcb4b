"""Negative log-likelihood of the true continuation under the judge: the line to read judge_likelihood against.

A lower value of generated text means that it is more predictable than the truth, not better.
"""

from __future__ import annotations

from collections.abc import Iterator

from dlmbench.scoring.judge import JudgeSettings, judge_of
from dlmbench.scoring.judge import prepare as _prepare
from dlmbench.scoring.reference import NO_REFERENCE, sizes
from dlmbench.types import Cell, MetricRequest, Texts, TextScore, Unscored, stable_hash

UNIT = "nats/token"
HIGHER_IS_BETTER = False
NEEDS = ("references", "own model")
SETTINGS = JudgeSettings
RANK = 31
TRUTH_OF = "judge_likelihood"
TRUTH_SOURCE = "the judge"


def prepare(settings: JudgeSettings) -> MetricRequest:
    """Find the judge; raises BenchError where there is none or it is no causal model."""
    return _prepare("judge_truth", settings)


def same_value(cell: Cell) -> str:
    """The truth is the same whatever is sampled; its start may differ with a model's tokenizer."""
    return stable_hash([cell.model.key, cell.prompt_tokens, cell.new_tokens, cell.prompts])


def score(texts: Texts) -> Iterator[TextScore | Unscored]:
    """One value per prompt."""
    cell = texts.cell
    for prompt in texts.prompts:
        if prompt.text is None or not prompt.reference_text:
            yield Unscored(cell.id, "judge_truth", prompt.index, NO_REFERENCE)
            continue
        judged = judge_of(texts).read(prompt.text, prompt.reference_text)
        if judged.reason:
            yield Unscored(cell.id, "judge_truth", prompt.index, judged.reason)
            continue
        size_bytes, words = sizes(prompt.reference_text)
        yield TextScore(
            cell.id, "judge_truth", prompt.index, judged.nats, judged.tokens, size_bytes=size_bytes, words=words
        )
