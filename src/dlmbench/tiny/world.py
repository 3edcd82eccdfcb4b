"""The fixed facts of the tiny world: neighbouring places, animals of each place and so on, with all probabilities.

A model must memorise these facts, as it must learn the world behind real text. They come from ranking words by a hash,
not from a random generator, so they are the same in every version of Python.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256

from dlmbench.tiny import vocabulary

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


def _zipf(words: Iterable[str], exponent: float, fact: str) -> Distribution:
    """Zipf-Mandelbrot distribution over `words`, ranked differently for each `fact`."""
    return normalised({word: (rank + 1.5) ** -exponent for rank, word in enumerate(_ranked(words, fact))})


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
        by_article = {
            article: normalised({word: p for word, p in words.items() if article_of(word) == article})
            for article in weights
        }
        return cls(normalised(weights), by_article)


def _borders() -> dict[str, list[str]]:
    """Every place has four neighbours: those one and five steps away on a ring."""
    count = len(vocabulary.PLACES)
    return {
        place: [vocabulary.PLACES[(index + step) % count] for step in (-5, -1, 1, 5)]
        for index, place in enumerate(vocabulary.PLACES)
    }


NAME = _zipf(vocabulary.FEMALE_NAMES + vocabulary.MALE_NAMES, 0.4, "name")
NAME_OF_RELATION = dict.fromkeys(vocabulary.RELATIONS, NAME) | {
    "sister": restrict(NAME, vocabulary.FEMALE_NAMES.__contains__),
    "brother": restrict(NAME, vocabulary.MALE_NAMES.__contains__),
}
RELATION = _zipf(vocabulary.RELATIONS, 0.3, "relation")
TRAIT = Indefinite.of(_zipf(vocabulary.TRAITS, 0.4, "trait"))
TRAIT_OF_HERO = _zipf(vocabulary.TRAITS, 0.4, "trait")
ROLE_OF_TRAIT = {trait: _zipf(vocabulary.ROLES, 0.9, f"role of the {trait}") for trait in vocabulary.TRAITS}
PLACE = _zipf(vocabulary.PLACES, 0.3, "place")
NEIGHBOUR_OF = {place: _zipf(bordering, 0.5, f"way from the {place}") for place, bordering in _borders().items()}
ANIMAL_OF = {
    place: Indefinite.of(_zipf(_ranked(vocabulary.ANIMALS, f"fauna of the {place}")[:6], 0.6, f"animal in the {place}"))
    for place in vocabulary.PLACES
}
LANDMARK_OF = {
    place: _zipf(_ranked(vocabulary.LANDMARKS, f"sights of the {place}")[:4], 0.4, f"landmark in the {place}")
    for place in vocabulary.PLACES
}
STATE_OF = {
    animal: _zipf(_ranked(vocabulary.ANIMAL_STATES, f"nature of the {animal}")[:4], 0.6, f"state of the {animal}")
    for animal in vocabulary.ANIMALS
}
OBJECT_OF_ROLE = {role: _zipf(vocabulary.PLURALS, 1.3, f"object of the {role}") for role in vocabulary.ROLES}
COLOUR = _zipf(vocabulary.COLOURS, 0.6, "colour")
GARMENT = _zipf(vocabulary.GARMENTS, 0.3, "garment")
CONTAINER = _zipf(vocabulary.CONTAINERS, 0.5, "container")
MOOD = _zipf(vocabulary.MOODS, 0.3, "mood")
MOTION = _zipf(vocabulary.MOTIONS, 0.5, "motion")
MANNER = _zipf(vocabulary.MANNERS, 0.3, "manner")
PREPOSITION = _zipf(vocabulary.PREPOSITIONS, 0.3, "preposition")
ADVERB = _zipf(vocabulary.ADVERBS, 0.3, "adverb")
SKY = _zipf(vocabulary.SKIES, 0.3, "sky")
HOUR = _zipf(vocabulary.HOURS, 0.1, "hour")
COUNT_OF_NEW = normalised(dict(zip(vocabulary.NUMBERS[1:], (3.0, 4.0, 4.0, 3.0, 2.0, 2.0), strict=True)))
COUNT_OF = {number: count for count, number in enumerate(vocabulary.NUMBERS)}
"""The value of a number word; `vocabulary.NUMBERS[count]` is the inverse."""
