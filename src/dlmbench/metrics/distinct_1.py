"""Share of distinct tokens in a generated text (distinct-1, Li et al. 2016, arXiv 1510.03055).

Read it beside every likelihood of generated text: a low judge perplexity is cheap to get by repeating oneself.
"""

from __future__ import annotations

from collections.abc import Iterator

from dlmbench.scoring.ngrams import distinct
from dlmbench.types import Texts, TextScore, Unscored

UNIT = "share"
HIGHER_IS_BETTER = True
NEEDS = ("generations",)


def score(texts: Texts) -> Iterator[TextScore | Unscored]:
    """One value a generation."""
    yield from distinct(texts, 1)
