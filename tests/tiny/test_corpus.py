"""The tiny corpus: its stories are reproducible, consistent, and made of its vocabulary."""

from __future__ import annotations

import random
from collections import Counter
from hashlib import sha256
from itertools import pairwise

import pytest

from dlmbench.tiny import heldout_stories, next_word, sample_story, story_of
from dlmbench.tiny.vocabulary import (
    CLASS_OF_WORD,
    EMBEDDING_SIZE,
    END_OF_TEXT_ID,
    MASK_TOKEN_ID,
    TOKENS,
    WORDS,
    decode,
    encode,
)
from dlmbench.tiny.world import ANIMAL_OF, NEIGHBOUR_OF, TRAIT, article_of

STORIES = [story_of("test", index) for index in range(300)]


def test_the_corpus_is_the_one_that_the_shipped_models_learned() -> None:
    """A change of any rule, weight or word order changes this; the checkpoints would have to be trained again."""
    text = "\n".join(" ".join(story_of("heldout", index)) for index in range(50))
    assert sha256(text.encode()).hexdigest() == "56cd6be3ed016e5efa6a344af7cd862fb93930e651c60ccba113ffe59ea64d32"


def test_a_story_depends_on_purpose_and_index_alone() -> None:
    assert story_of("test", 7) == STORIES[7]
    assert story_of("training", 7) != STORIES[7]
    assert sample_story(50, random.Random(1)) == sample_story(80, random.Random(1))[:50]


def test_held_out_stories_are_nested_and_cut_where_asked() -> None:
    short, long = heldout_stories(3, 48), heldout_stories(3, 128)
    for narrow, wide in zip(short, long, strict=True):
        assert (len(narrow), len(wide)) == (48, 128)
        assert narrow == wide[:48]
    assert heldout_stories(1, 48, first=2) == short[2:]


def test_articles_agree_with_the_next_word() -> None:
    for story in STORIES:
        for article, word in pairwise(story):
            if article in ("a", "an") and word != "time":
                assert article == article_of(word), f"{article} {word}"
    assert any("an" in story for story in STORIES)


@pytest.mark.parametrize("choice", [TRAIT, *ANIMAL_OF.values()])
def test_splitting_by_article_keeps_the_distribution(choice) -> None:
    joint = {w: choice.article[a] * p for a, words in choice.word.items() for w, p in words.items()}
    assert sum(joint.values()) == pytest.approx(1.0)
    if choice is TRAIT:
        assert set(joint) == {word for word, its in CLASS_OF_WORD.items() if its == "trait"}


def test_borders_are_mutual() -> None:
    for place, neighbours in NEIGHBOUR_OF.items():
        assert len(neighbours) == 4
        assert all(place in NEIGHBOUR_OF[neighbour] for neighbour in neighbours)


def test_every_word_of_the_vocabulary_is_used() -> None:
    counts = Counter(word for index in range(3000) for word in story_of("coverage", index, 128))
    assert set(counts) == set(WORDS)


def test_counts_are_conserved() -> None:
    """Who gave k of n and 'had m left' has n - k left: parse the sentences that say so."""
    checked = 0
    numbers = {word: n for n, word in enumerate(("none", "one", "two", "three", "four", "five", "six"))}
    for story in STORIES:
        for sentence in " ".join(story).split(" . ")[3:]:
            words = sentence.split()
            if "left" in words and words[-1] == "left":
                given, left = numbers[words[words.index("gave") + 1]], numbers[words[-2]]
                assert 1 <= given + left <= 6
                checked += 1
    assert checked > 20


def test_next_word_sums_to_one_everywhere() -> None:
    for story in STORIES[:20]:
        for length in range(0, 192, 7):
            distribution = next_word(story[:length])
            assert sum(distribution.values()) == pytest.approx(1.0)
            assert all(p > 0 for p in distribution.values())
            assert set(distribution) <= set(WORDS)


def test_an_impossible_prefix_is_refused() -> None:
    with pytest.raises(ValueError, match="position 1"):
        next_word(["once", "once"])


def test_ids_and_words_are_inverse() -> None:
    assert decode(encode(STORIES[0])) == STORIES[0]
    assert TOKENS[END_OF_TEXT_ID] == "<|endoftext|>"
    assert len(TOKENS) <= MASK_TOKEN_ID < EMBEDDING_SIZE
    assert decode([MASK_TOKEN_ID]) == [f"<unused {MASK_TOKEN_ID}>"]
