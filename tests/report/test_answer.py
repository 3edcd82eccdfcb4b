"""Two measures that name different step counts: the answer says which question each has answered."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dlmbench.analysis.study import analyse
from dlmbench.report.answer import answer, why_parities_differ
from dlmbench.types import Run
from support.synthetic_run import baseline_cell, measured, per_text, target_cell

N = 80
STEPS = (8, 16, 32)


def curve_of(nats: tuple[float, ...], valid: tuple[float, ...], repeated: float = 0.05, rule: str = "low_confidence"):
    rng = np.random.default_rng(0)
    hardness = rng.normal(0, 0.1, N)
    base = baseline_cell()
    rows = [(base, 1.0, 0.9, 0.05)]
    for k, nat, share in zip(STEPS, nats, valid, strict=True):
        cell = target_cell(k)
        knobs = tuple((name, rule if name == "commit" else value) for name, value in cell.knobs)
        rows.append((replace(cell, knobs=knobs), nat, share, repeated))
    scores = []
    for cell, nat, share, repetition in rows:
        scores += per_text(cell, "likelihood", list(nat + hardness + rng.normal(0, 0.02, N)))
        scores += per_text(cell, "oracle_validity", list(share + rng.normal(0, 0.02, N)), 5.0)
        scores += per_text(cell, "repetition", list(repetition + rng.normal(0, 0.01, N)), 61.0)
    results = tuple(measured(c, [0.1] * 15) for c, *_ in rows)
    run = Run("f", "n", None, tuple(c for c, *_ in rows), (), results, tuple(scores))
    return analyse(run, draws=300)


def explained(*args, **kwargs) -> str | None:
    study = curve_of(*args, **kwargs)
    text = why_parities_differ(study.curves[0])
    assert (text or "They ask different things") in answer(study) or text is None
    return text


def test_agreement_needs_no_words():
    assert explained((1.5, 0.9, 0.9), (0.5, 0.95, 0.95)) is None
    assert explained((1.5, 1.4, 1.3), (0.5, 0.6, 0.7)) is None


def test_valid_text_of_a_poorer_scorer():
    text = explained((1.5, 1.3, 1.1), (0.5, 0.95, 0.95))
    assert text.startswith("By likelihood parity is not reached up to K=32, by validity reached at K=16.")
    assert "rates the model as a scorer" in text
    assert "judges what the model wrote" in text
    assert "keeping to what it is sure of" in text
    assert "Committing the surest words first" in text
    assert "It does not do so by repeating itself: 5% of its 4-grams are repeated at K=16, the baseline's 5%" in text


def test_valid_by_repeating_itself_is_pointed_out():
    text = explained((1.5, 1.3, 0.9), (0.95, 0.95, 0.95), repeated=0.55)
    assert "By likelihood parity is reached at K=32, by validity reached at K=8, the smallest step count scored" in text
    assert "It also repeats itself, which no rule forbids: 55% of its 4-grams are repeated at K=8" in text


def test_other_orders_are_not_blamed_on_confidence():
    assert "surest" not in explained((1.5, 1.3, 1.1), (0.5, 0.95, 0.95), rule="random")


def test_a_good_scorer_that_writes_badly():
    text = explained((1.5, 0.9, 0.9), (0.5, 0.6, 0.95))
    assert "By likelihood parity is reached at K=16, by validity reached at K=32" in text
    assert "do not see each other" in text
    assert "keeping to what it is sure of" not in text


def test_doubt_is_not_a_contradiction():
    text = explained((1.5, 1.3, 1.1), (0.5, 0.6, 0.9))
    assert "by validity undecided up to K=32: 80 prompts are too few to call this a contradiction" in text


@pytest.mark.parametrize("delta", [0.1, 0.2])
def test_margins_are_compared_with_the_same_margin(delta):
    study = curve_of((1.5, 1.3, 1.05), (0.5, 0.95, 0.95))
    assert why_parities_differ(study.curves[0], delta) is not None
