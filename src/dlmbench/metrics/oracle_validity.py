"""Share of generated sentences that are possible under the embedded corpus's true source.

Beside it stands repetition: a text that says one valid sentence over and over is valid, and worthless.
"""

from __future__ import annotations

from collections.abc import Iterator

from dlmbench.scoring.oracle import judged
from dlmbench.types import Texts, TextScore, Unscored

UNIT = "share of sentences"
HIGHER_IS_BETTER = True
NEEDS = ("generations", "tiny corpus")


def score(texts: Texts) -> Iterator[TextScore | Unscored]:
    """One value a generation; one without a finished sentence has none."""
    for index, verdict in judged(texts):
        if verdict.sentences_total:
            yield TextScore(texts.cell.id, "oracle_validity", index, verdict.sentences_valid, verdict.sentences_total)
        else:
            yield Unscored(texts.cell.id, "oracle_validity", index, "no finished sentence")
