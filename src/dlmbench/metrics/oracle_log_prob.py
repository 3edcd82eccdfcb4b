"""Negative log-probability of generated text under the embedded corpus's true source, in nats per token.

Smoothed by 1e-3, for one impossible word would make it infinite; the value of bad text depends on that. A value
below the true text's own is a warning, not a win: greedy text is likelier than truth.
"""

from __future__ import annotations

from collections.abc import Iterator

from dlmbench.scoring.texts import oracle_scores, share_of
from dlmbench.types import Texts, TextScore, Unscored

UNIT = "nats/token"
HIGHER_IS_BETTER = False
ROLE = "quality"
MARGIN = 0.1
MARGINS = (0.2,)
NEEDS = ("generations", "oracle")
TITLE = "negative oracle log-prob"
RANK = 20


def score(texts: Texts) -> Iterator[TextScore | Unscored]:
    """One value per generation: total nats over its tokens."""
    for index, found in oracle_scores(texts):
        nats = -found.smoothed_log_prob
        yield share_of(texts, "oracle_log_prob", index, nats, len(found.tokens), "no tokens")
