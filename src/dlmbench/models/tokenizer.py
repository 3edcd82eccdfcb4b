"""A checkpoint's tokenizer, read from its tokenizer.json: text to ids and back, without torch.

Special tokens are added where the tokenizer itself adds them (LLaMA-3 adds one at the start of a text), so that a
model sees prompts as in training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from dlmbench.errors import BenchError


class CheckpointTokenizer:
    """Encode and decode with one checkpoint's tokenizer.

    content: hash of tokenizer.json; equal hashes mean equal tokenizers.

    Raises:
        BenchError: no tokenizer.json, or a damaged one.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        if not path.is_file():
            raise BenchError(
                f"{folder} has no tokenizer.json", "Fetch it with `dlmbench download`, or use --prompt-ids"
            )
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise BenchError(f"{path} is not a tokenizer: {error}", "Download it again") from None
        self.content = hashlib.sha256(path.read_bytes()).hexdigest()
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._folder = folder

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Ids of `text`; `special` False adds no special tokens, as for a continuation.

        Raises:
            BenchError: the tokenizer has no tokens for this text.
        """
        try:
            return list(self._tokenizer.encode(text, add_special_tokens=special).ids)
        except Exception as error:  # the library raises bare Exception, for example where there is no unknown token
            word = next((word for word in text.split() if not self._has_tokens(word)), None)
            raise BenchError(
                f"the tokenizer of {self._folder} cannot encode "
                + (f"'{word}', which is not in its vocabulary" if word else f"this text: {error}"),
                "The embedded models know only the words of their stories, as in: anna gave the apple to tom .",
            ) from None

    def _has_tokens(self, word: str) -> bool:
        try:
            return bool(self._tokenizer.encode(word, add_special_tokens=False).ids)
        except Exception:  # as in `encode`
            return False

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens left out."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    @property
    def pretrained(self) -> Any:
        """The same tokenizer as transformers loads it: with chat template and named special tokens."""
        return _with_template(self._folder)

    def chat(self, text: str) -> list[int]:
        """Ids of `text` as a user's turn in the checkpoint's chat template, with the generation prompt.

        Raises:
            BenchError: the checkpoint has no chat template.
        """
        tokenizer = self.pretrained
        if not tokenizer.chat_template:
            raise BenchError(f"{self._folder} has no chat template", "Leave --chat out, or use an Instruct checkpoint")
        turns = [{"role": "user", "content": text}]
        ids: list[int] = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        return ids


@lru_cache(maxsize=2)
def _with_template(folder: Path) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        return PreTrainedTokenizerFast.from_pretrained(str(folder))
    except (OSError, ValueError):
        return AutoTokenizer.from_pretrained(str(folder))


def find_tokenizer(folder: Path) -> CheckpointTokenizer | None:
    """The folder's tokenizer, or None where it has none (random weights, bare checkpoints)."""
    return CheckpointTokenizer(folder) if (folder / "tokenizer.json").is_file() else None
