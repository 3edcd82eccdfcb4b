"""Counting n-grams of generated ids, for the metrics that show how varied a text is."""

from __future__ import annotations

from collections.abc import Iterator

from dlmbench.types import Texts, TextScore, Unscored


def ngrams(ids: tuple[int, ...], n: int) -> list[tuple[int, ...]]:
    """All runs of n ids, in order."""
    return [ids[i : i + n] for i in range(len(ids) - n + 1)]


def distinct(texts: Texts, n: int) -> Iterator[TextScore | Unscored]:
    """Distinct n-grams over n-grams; a generation shorter than n has none."""
    for generation in texts.generations:
        runs = ngrams(generation.output_ids, n)
        if runs:
            yield TextScore(texts.cell.id, f"distinct_{n}", generation.prompt_index, len(set(runs)), len(runs))
        else:
            yield Unscored(texts.cell.id, f"distinct_{n}", generation.prompt_index, f"fewer than {n} tokens")
