"""Prompts: passages of text cut to exact token lengths, with their true continuations; one file a source.

A source is a module with `load(settings, tokens)`, `WINDOWS` (its passages are long texts to be cut into several
windows) and `SHUFFLED` (the seed chooses among them; otherwise they are taken in order).
"""

from dlmbench.prompts.passages import Passage, identity, load_texts
from dlmbench.prompts.selection import BYTES, Tokenizer, choose, in_batches, take
from dlmbench.prompts.spans import ScoredSpan, continuation, same_bytes, scored_spans

__all__ = [
    "BYTES",
    "Passage",
    "ScoredSpan",
    "Tokenizer",
    "choose",
    "continuation",
    "identity",
    "in_batches",
    "load_texts",
    "same_bytes",
    "scored_spans",
    "take",
]
