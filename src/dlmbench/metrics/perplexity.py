"""Refused: a causal perplexity of a masked model means nothing; `likelihood` gives word perplexity for both models.

The name is reserved so that requesting it explains why it is refused and what to use instead.
"""

from __future__ import annotations

from collections.abc import Iterator

from dlmbench.types import Texts, TextScore

UNIT = "perplexity"
HIGHER_IS_BETTER = False
ROLE = "quality"
MARGIN = 0.1
NEEDS = ("model", "references")
REFUSED = (
    "a causal (shifted) perplexity is not computed: a masked diffusion model sees both sides and predicts the masked "
    "position itself, never the next one, so the number would be meaningless (an earlier draft of this study got "
    "103,745)"
)
INSTEAD = "Use likelihood or elbo; both are also reported as word perplexity and bits per byte"


def score(texts: Texts) -> Iterator[TextScore]:
    """Never called: the scorer refuses the metric first."""
    raise AssertionError(REFUSED)
