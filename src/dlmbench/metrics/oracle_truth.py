"""Negative log-probability of the true continuation under the embedded corpus's source: no text should beat it.

The line to read oracle_log_prob against: a lower value of generated text means that it is more
predictable than the truth, not better.
"""

from __future__ import annotations

from collections.abc import Iterator

from dlmbench.scoring.texts import without_reference
from dlmbench.tiny.oracle import score_story
from dlmbench.tiny.vocabulary import decode
from dlmbench.types import Texts, TextScore, Unscored

UNIT = "nats/token"
HIGHER_IS_BETTER = False
ROLE = "diagnostic"
NEEDS = ("references", "oracle")
RANK = 21
TRUTH_OF = "oracle_log_prob"
TRUTH_SOURCE = "the true source"


def score(texts: Texts) -> Iterator[TextScore | Unscored]:
    """One value per prompt: total nats of its true continuation over its tokens."""
    for prompt in texts.prompts:
        truth = prompt.reference_ids
        if not truth:
            yield without_reference(texts.cell, "oracle_truth", prompt)
            continue
        found = score_story(decode(prompt.ids + truth), len(prompt.ids))
        yield TextScore(texts.cell.id, "oracle_truth", prompt.index, -found.smoothed_log_prob, len(truth))
