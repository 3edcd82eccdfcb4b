"""Aggregates of few texts: what a single text cannot tell is unknown, and not 0."""

from __future__ import annotations

import pytest

from dlmbench.bench.quality import aggregate
from dlmbench.types import TextScore
from support.synthetic_run import target_cell

CELL = target_cell(16)


def scores(*columns: tuple[float, float]) -> list[TextScore]:
    return [
        TextScore(CELL.id, "elbo", i, total, weight, size_bytes=4 * int(weight))
        for i, (total, weight) in enumerate(columns)
    ]


@pytest.mark.parametrize("columns", [((60.0, 64),), ((60.0, 64), (0.0, 0))])
def test_one_text_has_neither_a_standard_error_nor_an_interval(columns):
    (score,) = aggregate({CELL.id: CELL}, scores(*columns))
    assert score.value == pytest.approx(60 / 64)
    assert (score.stderr, score.low, score.high) == (None, None, None)
    assert score.in_other_units
    assert all((r.low, r.high) == (None, None) for r in score.in_other_units)


def test_two_texts_have_both():
    (score,) = aggregate({CELL.id: CELL}, scores((60.0, 64), (90.0, 64)))
    assert score.stderr is not None
    assert score.stderr > 0
    assert score.low is not None
    assert score.high is not None
    assert score.low < score.value < score.high
