"""Negative log-likelihood of the true continuation under the judge: the line to read judge_likelihood against.

A lower value of generated text means that it is more predictable than the truth, not better.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from dlmbench.scoring.judge import JudgeSettings, judge_text, prepare_judge
from dlmbench.scoring.texts import without_reference
from dlmbench.types import Cell, Texts, TextScore, Unscored, stable_hash

UNIT = "nats/token"
HIGHER_IS_BETTER = False
ROLE = "diagnostic"
NEEDS = ("references", "own model")
SETTINGS = JudgeSettings
RANK = 31
TRUTH_OF = "judge_likelihood"
TRUTH_SOURCE = "the judge"
prepare = partial(prepare_judge, "judge_truth")


def same_value(cell: Cell) -> str:
    """The truth is the same whatever is sampled; its start may differ with a model's tokenizer."""
    return stable_hash([cell.model.key, cell.prompt_tokens, cell.new_tokens, cell.prompts])


def score(texts: Texts) -> Iterator[TextScore | Unscored]:
    """One value per prompt."""
    for prompt in texts.prompts:
        if prompt.text is None or not prompt.reference_text:
            yield without_reference(texts.cell, "judge_truth", prompt)
        else:
            yield judge_text(texts, "judge_truth", prompt.index, prompt.text, prompt.reference_text)
