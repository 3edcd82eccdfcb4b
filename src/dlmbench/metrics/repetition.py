"""Share of 4-grams in a generated text that occurred in it before: degenerate text loops.

A worse model can look valid by repeating one sentence, so read this beside every validity.
"""

from functools import partial

from dlmbench.scoring.texts import ngram_shares

UNIT = "share"
HIGHER_IS_BETTER = False
ROLE = "diagnostic"
NEEDS = ("generations",)
TITLE = "repeated 4-grams"
RANK = 60
MEASURES = "repetition"

score = partial(ngram_shares, metric="repetition", n=4, repeated=True)
