"""Fraction of distinct tokens in a generated text (distinct-1, Li et al. 2016, arXiv 1510.03055).

Read it beside every likelihood of generated text: one that repeats itself has a low judge perplexity.
"""

from functools import partial

from dlmbench.scoring.texts import ngram_shares

UNIT = "share"
HIGHER_IS_BETTER = True
ROLE = "diagnostic"
NEEDS = ("generations",)
RANK = 71

score = partial(ngram_shares, metric="distinct_1", n=1)
