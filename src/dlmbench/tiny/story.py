"""The grammar of the tiny stories: one coroutine that both writes stories and checks them.

`tell()` yields, for each next word, the constraint that the word is under and the exact distribution over the words
that may stand there, and is sent the word that does. Every choice is between distinct words at the place where it is
made, so the words so far determine the whole state of the story, and p(next word | words so far) is what the
coroutine yields: no hidden choice has to be summed over. Sampling sends it drawn words, scoring sends it a given
text's; there is one source of truth.
"""

import random
from collections.abc import Iterator

from dlmbench.tiny import world
from dlmbench.tiny.cast import Cast, Character
from dlmbench.tiny.constraint import Constraint, Telling, indefinite, literally, must
from dlmbench.tiny.predicates import predicate, verbs
from dlmbench.tiny.world import Distribution, keep, normalised

_OPENING = {"once": 0.6, "long": 0.4}
_ADVERB_SHARE, _PRONOUN_SHARE, _THE_SHARE, _SKY_SHARE, _NEWCOMER_SHARE, _NAME_SHARE = 0.10, 0.30, 0.20, 0.03, 0.07, 0.45
_MOST_CHARACTERS = 3


def tell() -> Telling[None]:
    """A story, without end."""
    cast = Cast()
    yield from _opening(cast)
    while True:
        yield from _sentence(cast)


def _opening(cast: Cast) -> Telling[None]:
    """Once upon a time, <hero> the <trait> <role> lived in the <place>. ..."""
    opening = yield Constraint.SYNTAX, _OPENING
    yield from literally("upon a time ," if opening == "once" else "ago ,")
    hero = yield from _hero(cast)
    yield from _companion(cast, hero)
    yield from must(Constraint.NAME, hero.name)
    yield from literally("carried")
    yield from cast.new_item(hero)
    yield from literally("in")
    yield from must(Constraint.PRONOUN, hero.possessive)
    yield Constraint.FREE, world.CONTAINER
    yield from literally(".")
    cast.focus = hero


def _hero(cast: Cast) -> Telling[Character]:
    """<name> the <trait> <role> lived in the <home>."""
    name = yield Constraint.FREE, world.NAME
    yield from literally("the")
    trait = yield Constraint.FREE, world.TRAIT_OF_HERO
    role = yield Constraint.FREE, world.ROLE_OF_TRAIT[trait]
    yield from literally("lived in the")
    home = yield Constraint.FREE, world.PLACE
    yield from literally(".")
    return cast.enter(Character(name, role, home, location=home))


def _companion(cast: Cast, hero: Character) -> Telling[None]:
    """<She> had a <relation> named <name>, <a trait> <role> from the <home>."""
    yield from must(Constraint.PRONOUN, hero.pronoun)
    yield from literally("had a")
    relation = yield Constraint.FREE, world.RELATION
    yield from literally("named")
    name = yield Constraint.NAME, keep(world.NAME_OF_RELATION[relation], lambda other: other != hero.name)
    yield from literally(",")
    trait = yield from indefinite(world.TRAIT, Constraint.FREE)
    role = yield Constraint.ROLE, cast.unused_roles(trait)
    yield from literally("from the")
    home = yield Constraint.FREE, world.PLACE
    yield from literally(".")
    cast.enter(Character(name, role, home, location=home))


def _sentence(cast: Cast) -> Telling[None]:
    focus = cast.focus
    assert focus is not None
    first = yield Constraint.SUBJECT, _first_words(cast, focus)
    if first == "at":
        yield from _sky()
    elif first in world.TRAIT.article:
        yield from _newcomer(first, cast, focus)
    else:
        if first in world.ADVERB:
            yield from literally(",")
            first = yield Constraint.SUBJECT, _subjects(cast, focus)
        subject = yield from _subject(first, cast, focus)
        if subject is None:
            yield from _animal_again(cast)
        else:
            cast.focus = subject
            verb = yield Constraint.VERB, verbs(cast, subject)
            yield from predicate(verb, cast, subject)


def _first_words(cast: Cast, focus: Character) -> Distribution:
    weights = {focus.pronoun: _PRONOUN_SHARE, "the": _THE_SHARE, "at": _SKY_SHARE}
    if len(cast.characters) < _MOST_CHARACTERS:
        for article, probability in world.TRAIT.article.items():
            weights[article] = _NEWCOMER_SHARE * probability
    for character in cast.characters.values():
        preference = 0.5 if character is focus else 1.3
        weights[character.name] = _NAME_SHARE / len(cast.characters) * preference
    for adverb, probability in world.ADVERB.items():
        weights[adverb] = _ADVERB_SHARE * probability
    return normalised(weights)


def _subjects(cast: Cast, focus: Character) -> Distribution:
    weights = {focus.pronoun: 0.3, "the": 0.1}
    for name in cast.characters:
        weights[name] = 0.6 / len(cast.characters)
    return normalised(weights)


def _subject(first: str, cast: Cast, focus: Character) -> Telling[Character | None]:
    """The character that `first` leads to; none when it is the animal that was seen."""
    if first != "the":
        return cast.characters.get(first, focus)
    weights = {character.role: 1.0 for character in cast.characters.values()}
    if cast.animal is not None:
        weights[cast.animal] = 1.2
    noun = yield Constraint.ROLE, normalised(weights)
    return next((character for character in cast.characters.values() if character.role == noun), None)


def _sky() -> Telling[None]:
    """At <hour> the sky was <sky>."""
    yield Constraint.FREE, world.HOUR
    yield from literally("the sky was")
    yield Constraint.FREE, world.SKY
    yield from literally(".")


def _newcomer(article: str, cast: Cast, focus: Character) -> Telling[None]:
    """<A trait> <role> named <name> arrived from the <home>; now where the focus is, and the focus."""
    trait = yield Constraint.FREE, world.TRAIT.word[article]
    role = yield Constraint.ROLE, cast.unused_roles(trait)
    yield from literally("named")
    name = yield Constraint.NAME, keep(world.NAME, lambda name: name not in cast.characters)
    yield from literally("arrived from the")
    home = yield Constraint.FREE, world.PLACE
    yield from literally(".")
    cast.focus = cast.enter(Character(name, role, home, location=focus.location))


def _animal_again(cast: Cast) -> Telling[None]:
    """The <animal> was <state>."""
    assert cast.animal is not None
    yield from literally("was")
    yield Constraint.NATURE, world.STATE_OF[cast.animal]
    yield from literally(".")
    cast.animal = None


def draw(distribution: Distribution, rng: random.Random) -> str:
    """One word of `distribution`. A certain word costs no random number."""
    if len(distribution) == 1:
        return next(iter(distribution))
    left = rng.random()
    for word, probability in distribution.items():
        left -= probability
        if left < 0:
            return word
    return word  # the last one, where rounding has left a crumb


def story_words(rng: random.Random) -> Iterator[str]:
    """The words of a story drawn with `rng`, without end."""
    telling = tell()
    _, distribution = next(telling)
    while True:
        word = draw(distribution, rng)
        yield word
        _, distribution = telling.send(word)


def sample_story(length: int, rng: random.Random) -> list[str]:
    """The first `length` words of a story drawn with `rng`."""
    words = story_words(rng)
    return [next(words) for _ in range(length)]
