"""Share of generated sentences that are possible under the embedded corpus's true source.

Read it beside repetition: a text that repeats one valid sentence is valid, and worthless.
"""

from __future__ import annotations

from collections.abc import Iterator

from dlmbench.scoring.texts import oracle_scores, share_of
from dlmbench.types import Texts, TextScore, Unscored

UNIT = "share of sentences"
HIGHER_IS_BETTER = True
ROLE = "quality"
MARGIN = 0.02
MARGINS = (0.05,)
NEEDS = ("generations", "oracle")
RANK = 10
MEASURES = "validity"


def score(texts: Texts) -> Iterator[TextScore | Unscored]:
    """One value per generation; one without a finished sentence has none."""
    for index, found in oracle_scores(texts):
        valid, total = found.sentences_valid, found.sentences_total
        yield share_of(texts, "oracle_validity", index, valid, total, "no finished sentence")
