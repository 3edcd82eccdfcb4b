"""Share of 4-grams in a generated text that occurred in it before: degenerate text loops.

A worse model can look valid by repeating one sentence, so read this beside every validity.
"""

from __future__ import annotations

from collections.abc import Iterator

from dlmbench.scoring.generated import ngrams
from dlmbench.types import Texts, TextScore, Unscored

UNIT = "share"
HIGHER_IS_BETTER = False
NEEDS = ("generations",)
TITLE = "repeated 4-grams"
RANK = 60
MEASURES = "repetition"


def score(texts: Texts) -> Iterator[TextScore | Unscored]:
    """One value per generation; one shorter than four tokens has none."""
    for generation in texts.generations:
        runs = ngrams(generation.output_ids, 4)
        if runs:
            repeated = len(runs) - len(set(runs))
            yield TextScore(texts.cell.id, "repetition", generation.prompt_index, repeated, len(runs))
        else:
            yield Unscored(texts.cell.id, "repetition", generation.prompt_index, "fewer than 4 tokens")
