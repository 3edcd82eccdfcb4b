"""Entropy of the tokens of a generated text, in nats: how evenly it uses its words, whatever their order.

Read it beside every judge likelihood: temperature 1 with low-confidence remasking, or a text that loops, lowers it
(Zheng et al. 2024, arXiv 2409.02908). It grows with length, so only texts of one length compare.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from dlmbench.scoring.texts import share_of
from dlmbench.types import Texts, TextScore, Unscored

# Not "nats": that unit is a likelihood's, where a margin is a factor of perplexity.
UNIT = "entropy, nats"
HIGHER_IS_BETTER = True
ROLE = "diagnostic"
NEEDS = ("generations",)
RANK = 50


def score(texts: Texts) -> Iterator[TextScore | Unscored]:
    """One value per generation."""
    for generation in texts.generations:
        n = len(generation.output_ids)
        entropy = math.fsum(c / n * math.log(n / c) for c in Counter(generation.output_ids).values())
        yield share_of(texts, "unigram_entropy", generation.prompt_index, entropy, min(n, 1), "no tokens")
