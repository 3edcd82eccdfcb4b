"""Counting n-grams of generated ids, for the metrics that show how varied a text is."""

from __future__ import annotations

from collections.abc import Iterator

from dlmbench.types import Texts, TextScore


def ngrams(ids: tuple[int, ...], n: int) -> list[tuple[int, ...]]:
    """All runs of n ids, in order."""
    return [ids[i : i + n] for i in range(len(ids) - n + 1)]


def distinct(texts: Texts, n: int) -> Iterator[TextScore]:
    """Distinct n-grams over n-grams, for each generation that is at least n long."""
    for generation in texts.generations:
        runs = ngrams(generation.output_ids, n)
        if runs:
            yield TextScore(texts.cell.id, f"distinct_{n}", generation.prompt_index, len(set(runs)), len(runs))
