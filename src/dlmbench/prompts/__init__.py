"""Prompts: passages of text cut to exact token lengths, with their true continuations; one file per source.

A source is a module with `load(settings, tokens)`, `WINDOWS` (its passages are long texts, each cut into several
windows) and `SHUFFLED` (the seed chooses among them; otherwise they are taken in order). Optional attributes:
`NEEDS_PATH` (False), `TAKES_PATH` (True), `TAKES_CHAT` (True), `ALL_BY_DEFAULT` (False: without a number of prompts,
32 are taken), `HAS_EOS` (True: an end-of-text token says where a text ends), `HAS_ORACLE` (False: the true
probability of its texts is known).
"""

from dlmbench.prompts.passages import Passage, identity, load_texts, recorded_settings, source_attribute
from dlmbench.prompts.selection import choose, in_batches, take
from dlmbench.prompts.spans import BYTES, ScoredSpan, Tokenizer, continuation, same_bytes, scored_spans
