"""The oracle: exact where the text is a story, tolerant and specific where it is not."""

from __future__ import annotations

import math
from statistics import fmean, stdev

import pytest

from dlmbench.tiny import Constraint, next_word, score_story, story_of
from dlmbench.tiny.oracle import EPSILON
from dlmbench.tiny.vocabulary import TOKENS

_OPENING_TEXT = (
    "once upon a time , anna the old baker lived in the forest . she had a friend named ben , a kind miller"
    " from the river . anna carried three red apples in her bag ."
)
OPENING = _OPENING_TEXT.split()


def violations_of(text: str) -> dict[str, int]:
    words = [*OPENING, *text.split()]
    return {str(kind): count for kind, count in score_story(words, start=len(OPENING)).violations.items()}


def test_every_sample_is_valid_and_its_surprise_is_the_entropy_on_average() -> None:
    scores = [score_story(story_of("oracle test", index, 128), start=64) for index in range(2000)]
    assert all(not score.violations and math.isfinite(score.log_prob) for score in scores)
    excess = [-score.log_prob - score.path_entropy for score in scores]
    assert abs(fmean(excess)) < 4 * stdev(excess) / len(excess) ** 0.5
    assert 0.82 < -fmean(score.log_prob for score in scores) / 64 < 0.89
    assert all(score.sentences_valid == score.sentences_total for score in scores)


def test_the_opening_used_here_is_a_story() -> None:
    assert not score_story(OPENING).violations


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("he felt happy .", "subject"),  # anna is meant
        ("anna counted his red apples , there were three .", "pronoun"),
        ("anna counted her blue apples , there were three .", "item"),
        ("anna counted her red apple , there were three .", "item"),
        ("anna counted her red apples , there were two .", "count"),
        ("anna took the red apples and gave four of them to ben .", "count"),
        ("anna took the red apples and gave two of them to ben and had two left .", "count"),
        ("anna took the red apples and gave two of them to anna .", "name"),
        ("anna remembered her home in the river .", "home"),
        ("anna remained happy .", "verb"),
        ("clara felt happy .", "subject"),
        ("the sailor felt happy .", "role"),
        ("anna felt happy . anna remained sad .", "mood"),
        ("anna felt happy . ben asked anna , are you happy ? anna said no .", "answer"),
        ("anna wore a red hat . anna cleaned her blue hat .", "garment"),
        ("ben found three blue apples under the tree .", "plural"),  # anna has the apples
        ("an kind cook named clara arrived from the mill .", "free"),
        ("anna felt happy . happy .", "subject"),
    ],
)
def test_a_corruption_is_charged_once_and_in_its_kind(text: str, kind: str) -> None:
    found = violations_of(text)
    if "landmark" in found:  # where a landmark stands is a fact of the world, not what is tested here
        del found["landmark"]
    assert found == {kind: 1}


def test_a_broken_sentence_costs_only_itself() -> None:
    tail = "anna counted her red apples , there were three ."
    broken = score_story([*OPENING, *f"anna felt of them . {tail}".split()], start=len(OPENING))
    intact = score_story([*OPENING, *f"anna felt happy . {tail}".split()], start=len(OPENING))
    assert (broken.sentences_valid, broken.sentences_total) == (1, 2)
    assert sum(broken.violations.values()) == 1
    assert [token.constraint for token in broken.tokens[2:5]] == [Constraint.FREE, None, None]
    assert broken.tokens[-1].probability == intact.tokens[-1].probability
    assert broken.log_prob == -math.inf
    assert math.isfinite(broken.smoothed_log_prob)


def test_violations_before_the_start_are_not_charged() -> None:
    story = "anna counted her red apples , there were two . anna felt happy ."
    text = story.split()
    start = len(OPENING) + text.index(".") + 1
    score = score_story([*OPENING, *text], start=start)
    assert not score.violations
    assert (score.sentences_valid, score.sentences_total) == (1, 1)
    assert len(score.tokens) == 4


def test_special_tokens_and_nonsense_are_scored_as_broken() -> None:
    score = score_story(["<|endoftext|>", "<unused 383>", ".", *OPENING])
    assert score.violations
    assert math.isfinite(score.smoothed_log_prob)
    assert score_story([]).log_prob == 0.0


def test_log_prob_is_the_chain_of_next_word_probabilities() -> None:
    story = story_of("oracle test", 3, 90)
    chain = math.fsum(math.log(next_word(story[:i])[story[i]]) for i in range(60, 90))
    assert score_story(story, start=60).log_prob == pytest.approx(chain)
    assert score_story([*story[:60], "once"], start=60).log_prob == -math.inf


def test_all_tokens_probabilities_sum_to_one_exact_and_smoothed() -> None:
    story = story_of("oracle test", 5, 120)
    for length in (0, 1, 40, 77, 119):
        ends = [score_story([*story[:length], token], start=length) for token in TOKENS]
        assert math.fsum(math.exp(end.log_prob) for end in ends) == pytest.approx(1.0)
        assert math.fsum(math.exp(end.smoothed_log_prob) for end in ends) == pytest.approx(1.0)


def test_smoothing_bounds_what_a_violation_costs() -> None:
    score = score_story([*OPENING, "the", "sailor"], start=len(OPENING) + 1)
    assert score.smoothed_log_prob == pytest.approx(math.log(EPSILON / len(TOKENS)))
