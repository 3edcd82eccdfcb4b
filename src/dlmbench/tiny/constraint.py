"""What a word of a story is under: the constraint, and the exact distribution over the words that may stand there.

The grammar is a set of coroutines. Each yields a slot for every word of its part of a sentence and is sent the word.
"""

from collections.abc import Generator
from enum import StrEnum
from functools import cache
from typing import TypeVar

from dlmbench.tiny.world import Distribution, Indefinite


class Constraint(StrEnum):
    """What a word has to agree with; the oracle counts violations by it."""

    SYNTAX = "syntax"  # the frame of the sentence
    FREE = "free"  # a new fact: any word of the class, and the world's statistics
    ARTICLE = "article"  # a or an
    SUBJECT = "subject"  # what may begin a sentence, or follow its adverb
    VERB = "verb"  # what the subject is able to do now
    PRONOUN = "pronoun"  # the gender of a name
    NAME = "name"  # somebody who is in the story (or, for a newcomer, is not yet)
    ROLE = "role"  # the role of somebody in the story, or the animal just seen
    PLACE = "place"  # a place that borders on where the subject is
    LOCATION = "location"  # the place where the subject is
    HOME = "home"  # the place where the subject came from
    ANIMAL = "animal"  # an animal that lives here
    LANDMARK = "landmark"  # a landmark that stands here
    NATURE = "nature"  # the states that this animal is seen in
    MOOD = "mood"  # the mood told before
    ANSWER = "answer"  # yes or no, by the mood told before
    GARMENT = "garment"  # what the subject wears
    ITEM = "item"  # something that the subject carries
    PLURAL = "plural"  # singular after one, plural else; nothing that is carried already
    COUNT = "count"  # how many there are


Slot = tuple[Constraint, Distribution]
Result = TypeVar("Result")
Telling = Generator[Slot, str, Result]


@cache
def certain(word: str) -> Distribution:
    """The distribution that leaves no choice."""
    return {word: 1.0}


def literally(text: str) -> Telling[None]:
    """The words of `text`, which the frame of the sentence asks for."""
    for word in text.split():
        yield Constraint.SYNTAX, certain(word)


def must(constraint: Constraint, word: str) -> Telling[None]:
    """`word`, which the story so far asks for."""
    yield constraint, certain(word)


def indefinite(choice: Indefinite, constraint: Constraint) -> Telling[str]:
    """An article and then a word that it fits; returns the word."""
    article = yield Constraint.ARTICLE, choice.article
    word = yield constraint, choice.word[article]
    return word
