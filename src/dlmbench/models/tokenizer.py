"""A checkpoint's tokenizer, read from its tokenizer.json: text to ids and back, without torch.

Special tokens are added in front where the tokenizer itself adds them (LLaMA-3 adds one at the start of a text), so
that a model sees prompts as in training. What a tokenizer adds behind a text is left out: every text here goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property, lru_cache
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
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        except Exception as error:  # the library raises bare Exception, for example where there is no unknown token
            word = next((word for word in text.split() if not self._has_tokens(word)), None)
            raise BenchError(
                f"the tokenizer of {self._folder} cannot encode "
                + (f"'{word}', which is not in its vocabulary" if word else f"this text: {error}"),
                "The embedded models know only the words of their stories, as in: anna gave the apple to tom .",
            ) from None
        return [*self._start_ids, *ids] if special else ids

    @cached_property
    def _start_ids(self) -> list[int]:
        """What the tokenizer adds in front of a text: what it adds to one of its own tokens, up to that token."""
        added = self._tokenizer.num_special_tokens_to_add(False)
        for token in range(self._tokenizer.get_vocab_size() if added else 0):
            text = self._tokenizer.decode([token], skip_special_tokens=True)
            if text and self._has_tokens(text):
                found = self._tokenizer.encode(text)
                return list(found.ids[: found.special_tokens_mask.index(0)])
        return []

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
            BenchError: the checkpoint has no chat template, or it refuses the text.
        """
        ids: list[int] = self.apply_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        return ids

    def apply_template(self, turns: list[dict[str, str]], **options: Any) -> Any:
        """The turns in the checkpoint's chat template; `options` of transformers' `apply_chat_template`.

        Raises:
            BenchError: the checkpoint has no chat template, or it refuses the turns.
        """
        try:
            tokenizer = self.pretrained
            if tokenizer.chat_template:
                return tokenizer.apply_chat_template(turns, **options)
        except Exception as error:  # a template is a program of the checkpoint's authors
            reason = " ".join(str(error).split()) or type(error).__name__
            raise BenchError(
                f"the chat template of {self._folder} cannot be used: {reason}", "Leave the chat option out"
            ) from None
        raise BenchError(f"{self._folder} has no chat template", "Leave --chat out, or use an Instruct checkpoint")


@lru_cache(maxsize=2)
def _with_template(folder: Path) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        return PreTrainedTokenizerFast.from_pretrained(str(folder))
    except (OSError, ValueError):
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)


def find_tokenizer(folder: Path) -> CheckpointTokenizer | None:
    """The folder's tokenizer, or None where it has none (random weights, bare checkpoints)."""
    return CheckpointTokenizer(folder) if (folder / "tokenizer.json").is_file() else None
