"""The fixed facts of the tiny world: neighbouring places, animals of each place and so on, with all probabilities.

A model must memorise these facts, as it must learn the world behind real text. They come from ranking words by a hash,
not from a random generator, so they are the same in every version of Python.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256

from dlmbench.tiny.vocabulary import FEMALE_NAMES, NUMBERS, PLURALS, WORD_CLASSES

Distribution = Mapping[str, float]
"""Words, each with its probability: positive, distinct, summing to one."""


def normalised(weights: Mapping[str, float]) -> Distribution:
    """The distribution proportional to `weights`, which are positive."""
    total = sum(weights.values())
    return {word: weight / total for word, weight in weights.items()}


def uniform(words: Iterable[str]) -> Distribution:
    """The uniform distribution over the distinct `words`."""
    distinct = dict.fromkeys(words)
    return dict.fromkeys(distinct, 1.0 / len(distinct))


def restrict(distribution: Distribution, allowed: Callable[[str], bool]) -> Distribution:
    """`distribution` conditioned on the word being `allowed`."""
    return normalised({word: p for word, p in distribution.items() if allowed(word)})


def _ranked(words: Iterable[str], fact: str) -> list[str]:
    return sorted(words, key=lambda word: sha256(f"{fact}: {word}".encode()).digest())


def _zipf(fact: str, exponent: float, words: Iterable[str] | None = None) -> Distribution:
    """Zipf-Mandelbrot distribution over `words` (None: those of the class `fact`), ranked differently by `fact`."""
    ranked = _ranked(WORD_CLASSES[fact] if words is None else words, fact)
    return normalised({word: (rank + 1.5) ** -exponent for rank, word in enumerate(ranked)})


def article_of(word: str) -> str:
    """The indefinite article before `word` (the vocabulary has no silent h and no sounded-as-y vowel)."""
    return "an" if word[0] in "aeiou" else "a"


@dataclass(frozen=True)
class Indefinite:
    """A noun or adjective with its article: the article is chosen first, then a word that fits it."""

    article: Distribution
    word: Mapping[str, Distribution]

    @classmethod
    def of(cls, words: Distribution) -> "Indefinite":
        """Split `words` by article; the product of the two distributions is `words` again."""
        weights: dict[str, float] = {}
        for word, probability in words.items():
            weights[article_of(word)] = weights.get(article_of(word), 0.0) + probability
        by_article = {a: normalised({w: p for w, p in words.items() if article_of(w) == a}) for a in weights}
        return cls(normalised(weights), by_article)


def _local(fact: str, exponent: float, words: Iterable[str], kind: str, count: int) -> Distribution:
    """A distribution over the `count` words that are first for `kind`."""
    return _zipf(fact, exponent, _ranked(words, kind)[:count])


_PLACES = WORD_CLASSES["place"]
# Every place has four neighbours: those one and five steps away on a ring.
_BORDERS = {
    place: [_PLACES[(index + step) % len(_PLACES)] for step in (-5, -1, 1, 5)] for index, place in enumerate(_PLACES)
}

NAME = _zipf("name", 0.4)
NAME_OF_RELATION = dict.fromkeys(WORD_CLASSES["relation"], NAME) | {
    "sister": restrict(NAME, lambda name: name in FEMALE_NAMES),
    "brother": restrict(NAME, lambda name: name not in FEMALE_NAMES),
}
RELATION = _zipf("relation", 0.3)
TRAIT_OF_HERO = _zipf("trait", 0.4)
TRAIT = Indefinite.of(TRAIT_OF_HERO)
ROLE_OF_TRAIT = {t: _zipf(f"role of the {t}", 0.9, WORD_CLASSES["role"]) for t in WORD_CLASSES["trait"]}
PLACE = _zipf("place", 0.3)
NEIGHBOUR_OF = {place: _zipf(f"way from the {place}", 0.5, bordering) for place, bordering in _BORDERS.items()}
ANIMAL_OF = {
    p: Indefinite.of(_local(f"animal in the {p}", 0.6, WORD_CLASSES["animal"], f"fauna of the {p}", 6)) for p in _PLACES
}
LANDMARK_OF = {
    p: _local(f"landmark in the {p}", 0.4, WORD_CLASSES["landmark"], f"sights of the {p}", 4) for p in _PLACES
}
STATE_OF = {
    animal: _local(f"state of the {animal}", 0.6, WORD_CLASSES["animal state"], f"nature of the {animal}", 4)
    for animal in WORD_CLASSES["animal"]
}
OBJECT_OF_ROLE = {role: _zipf(f"object of the {role}", 1.3, PLURALS) for role in WORD_CLASSES["role"]}
COLOUR = _zipf("colour", 0.6)
GARMENT = _zipf("garment", 0.3)
CONTAINER = _zipf("container", 0.5)
MOOD = _zipf("mood", 0.3)
MOTION = _zipf("motion", 0.5)
MANNER = _zipf("manner", 0.3)
PREPOSITION = _zipf("preposition", 0.3)
ADVERB = _zipf("adverb", 0.3)
SKY = _zipf("sky", 0.3)
HOUR = _zipf("hour", 0.1)
COUNT_OF_NEW = normalised(dict(zip(NUMBERS[1:], (3.0, 4.0, 4.0, 3.0, 2.0, 2.0), strict=True)))
COUNT_OF = {number: count for count, number in enumerate(NUMBERS)}
"""The value of a number word; `vocabulary.NUMBERS[count]` is the inverse."""
