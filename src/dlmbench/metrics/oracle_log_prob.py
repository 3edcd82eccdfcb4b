"""Negative log-probability of generated text under the embedded corpus's true source, in nats a token.

Smoothed by 1e-3, for one impossible word would make it infinite; the value of bad text depends on that. A value
below the true text's own is a warning, not a win: greedy text is likelier than truth.
"""

from __future__ import annotations

from collections.abc import Iterator

from dlmbench.scoring.oracle import judged
from dlmbench.types import Texts, TextScore, Unscored

UNIT = "nats/token"
HIGHER_IS_BETTER = False
NEEDS = ("generations", "tiny corpus")


def score(texts: Texts) -> Iterator[TextScore | Unscored]:
    """One value a generation: total nats over its tokens."""
    for index, verdict in judged(texts):
        tokens = len(verdict.tokens)
        if tokens:
            yield TextScore(texts.cell.id, "oracle_log_prob", index, -verdict.smoothed_log_prob, tokens)
        else:
            yield Unscored(texts.cell.id, "oracle_log_prob", index, "no tokens")
