"""The words of the tiny corpus (words.json), their classes and their token ids.

Each word is one token, so grammar and oracle work on words; ids exist only for the models. The two special tokens come
after the words, as in LLaDA's tokenizer. The mask token is not in the tokenizer: its id is in the padded part of the
embedding.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

# A class may have parts: female and male names, objects in the singular and in the plural.
_PARTS: dict[str, list[str]] = json.loads(Path(__file__).with_name("words.json").read_text(encoding="utf-8"))
WORD_CLASSES = {word_class: tuple(" ".join(parts).split()) for word_class, parts in _PARTS.items()}
FEMALE_NAMES = frozenset(_PARTS["name"][0].split())
_SINGULARS, _PLURALS = (part.split() for part in _PARTS["object"])
PLURALS = dict(zip(_SINGULARS, _PLURALS, strict=True))
NUMBERS = WORD_CLASSES["number"]

CLASS_OF_WORD = {word: word_class for word_class, words in WORD_CLASSES.items() for word in words}
WORDS = tuple(CLASS_OF_WORD)

START_OF_TEXT = "<|startoftext|>"
END_OF_TEXT = "<|endoftext|>"
TOKENS = (*WORDS, START_OF_TEXT, END_OF_TEXT)
TOKEN_IDS = {token: token_id for token_id, token in enumerate(TOKENS)}
START_OF_TEXT_ID = TOKEN_IDS[START_OF_TEXT]
END_OF_TEXT_ID = TOKEN_IDS[END_OF_TEXT]  # also the padding token, as in LLaDA

# A multiple of 128, for the GPU. Of the rows beyond the tokenizer's length only the mask's is used.
EMBEDDING_SIZE = 384
MASK_TOKEN_ID = EMBEDDING_SIZE - 1

assert sum(map(len, WORD_CLASSES.values())) == len(WORDS), "a word is in two classes"
assert len(TOKENS) < MASK_TOKEN_ID


def encode(words: Iterable[str]) -> list[int]:
    """Token ids of `words`. Raises KeyError for a word that is not in the vocabulary."""
    return [TOKEN_IDS[word] for word in words]


def decode(token_ids: Sequence[int]) -> list[str]:
    """Words of `token_ids`; ids without a token (mask, unused rows) become `<unused N>`, which no story contains."""
    return [TOKENS[token_id] if token_id < len(TOKENS) else f"<unused {token_id}>" for token_id in token_ids]
