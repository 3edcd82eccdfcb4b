"""The grammar of the tiny stories, and drawing stories from it.

The grammar is one coroutine that both writes and checks stories. `story_slots()` yields for each next word its
constraint and the exact distribution over possible words, and is sent the actual word. Every choice is between
distinct words at the position where it is made, so the words so far determine the state of the story, and the yielded
distribution is p(next word | words so far), without hidden choices to sum over. Sampling sends drawn words, scoring
sends the words of a text.
"""

import random

from dlmbench.tiny import world
from dlmbench.tiny.state import Cast, Character, Constraint, Slots, certain, clause, indefinite, own_item
from dlmbench.tiny.vocabulary import NUMBERS
from dlmbench.tiny.world import Distribution, normalised, restrict, uniform

LONGEST_WINDOW = 192
"""Words in the longest window that the embedded models were trained on."""

_OPENING = {"once": 0.6, "long": 0.4}
_ADVERB_SHARE, _PRONOUN_SHARE, _THE_SHARE, _SKY_SHARE, _NEWCOMER_SHARE, _NAME_SHARE = 0.10, 0.30, 0.20, 0.03, 0.07, 0.45
_MAX_CHARACTERS = 3
_MANNER_OR_TO = normalised({"to": 0.75} | {manner: 0.25 * p for manner, p in world.MANNER.items()})
_WITH_OR_STOP = {".": 0.7, "with": 0.3}
_BECAUSE_OR_STOP = {".": 0.6, "because": 0.4}
_AND_OR_STOP = {".": 0.5, "and": 0.5}
_YES_OR_NO = {"yes": 0.6, "no": 0.4}
_MAX_ITEMS = 2  # a character with this many kinds of items finds no more


def story_slots() -> Slots[None]:
    """The slots of an endless story."""
    cast = Cast()
    yield from _opening(cast)
    while True:
        yield from _sentence(cast)


def _opening(cast: Cast) -> Slots[None]:
    """<hero> lived somewhere, had a friend from elsewhere, and carried something."""
    opening = yield Constraint.SYNTAX, _OPENING
    yield from clause("upon a time ," if opening == "once" else "ago ,")
    name, trait = yield from clause("<free> the <free>", world.NAME, world.TRAIT_OF_HERO)
    role, home = yield from clause("<free> lived in the <free> .", world.ROLE_OF_TRAIT[trait], world.PLACE)
    hero = cast.focus = cast.enter(Character(name, role, home, location=home))

    _, relation = yield from clause("<pronoun> had a <free> named", hero.pronoun, world.RELATION)
    names = restrict(world.NAME_OF_RELATION[relation], lambda other: other != hero.name)
    (name,) = yield from clause("<name> ,", names)
    trait = yield from indefinite(world.TRAIT, Constraint.FREE)
    role, home = yield from clause("<role> from the <free> .", cast.unused_roles(trait), world.PLACE)
    cast.enter(Character(name, role, home, location=home))

    yield from clause("<name> carried", hero.name)
    yield from cast.new_item(hero)
    yield from clause("in <pronoun> <free> .", hero.possessive, world.CONTAINER)


def _sentence(cast: Cast) -> Slots[None]:
    focus = cast.focus
    assert focus is not None
    first = yield Constraint.SUBJECT, _first_words(cast, focus)
    if first == "at":
        yield from clause("<free> the sky was <free> .", world.HOUR, world.SKY)
    elif first in world.TRAIT.article:
        yield from _newcomer(first, cast, focus)
    else:
        if first in world.ADVERB:
            (first,) = yield from clause(", <subject>", _subjects(cast, focus))
        subject = yield from _subject(first, cast, focus)
        if subject is None:
            assert cast.animal is not None
            yield from clause("was <nature> .", world.STATE_OF[cast.animal])
            cast.animal = None
        else:
            cast.focus = subject
            verb = yield Constraint.VERB, verbs(cast, subject)
            yield from predicate(verb, cast, subject)


def _first_words(cast: Cast, focus: Character) -> Distribution:
    weights = {focus.pronoun: _PRONOUN_SHARE, "the": _THE_SHARE, "at": _SKY_SHARE}
    if len(cast.characters) < _MAX_CHARACTERS:
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


def _subject(first: str, cast: Cast, focus: Character) -> Slots[Character | None]:
    """The subject of a sentence that starts with `first`; None for the animal that was seen."""
    if first != "the":
        return cast.characters.get(first, focus)
    weights = {character.role: 1.0 for character in cast.characters.values()}
    if cast.animal is not None:
        weights[cast.animal] = 1.2
    noun = yield Constraint.ROLE, normalised(weights)
    return next((character for character in cast.characters.values() if character.role == noun), None)


def _newcomer(article: str, cast: Cast, focus: Character) -> Slots[None]:
    """<A trait> <role> named <name> arrived from the <home>; arrives where the focus is and becomes the focus."""
    trait = yield Constraint.FREE, world.TRAIT.word[article]
    names = restrict(world.NAME, lambda name: name not in cast.characters)
    role, name, home = yield from clause(
        "<role> named <name> arrived from the <free> .", cast.unused_roles(trait), names, world.PLACE
    )
    cast.focus = cast.enter(Character(name, role, home, location=focus.location))


# ---------------------------------------------------------------- after the subject


def verbs(cast: Cast, subject: Character) -> Distribution:
    """The verbs that are possible for `subject` now."""
    weights = {motion: 0.16 * probability for motion, probability in world.MOTION.items()}
    weights |= {"saw": 0.06, "felt": 0.09, "asked": 0.07, "remembered": 0.05, "looked": 0.05}
    if subject.items:
        weights |= {"took": 0.24, "counted": 0.18}
    if len(subject.items) < _MAX_ITEMS and cast.unused_objects():
        weights["found"] = 0.12
    if subject.mood is not None:
        weights["remained"] = 0.10
    weights["cleaned" if subject.garment else "wore"] = 0.12
    return normalised(weights)


def predicate(verb: str, cast: Cast, subject: Character) -> Slots[None]:
    """The rest of the sentence after `verb`, and its effect on the story.

    A fact stated once (a mood, a garment, a count, a home) is the only possible word later; the oracle's constraints
    measure whether a model gets it right.
    """
    here = subject.location
    match verb:
        case "saw":
            cast.animal = yield from indefinite(world.ANIMAL_OF[here], Constraint.ANIMAL)
            yield from clause("in the <location> .", here)
        case "felt":
            yield from _feels(cast, subject)
        case "remained":
            assert subject.mood is not None
            yield from clause("<mood> .", subject.mood)
        case "asked":
            yield from _asks(cast, subject)
        case "remembered":
            yield from clause("<pronoun> home in the <home> .", subject.possessive, subject.home)
        case "looked":
            yield from clause("at the <landmark> in the <location> .", world.LANDMARK_OF[here], here)
        case "took":
            yield from _gives(cast, subject)
        case "counted":
            yield from clause("<pronoun>", subject.possessive)
            item = yield from own_item(subject)
            yield from clause(f", there {'were' if item.count > 1 else 'was'} <count> .", NUMBERS[item.count])
        case "found":
            yield from cast.new_item(subject)
            yield from clause("<free> the <landmark> .", world.PREPOSITION, world.LANDMARK_OF[here])
        case "wore":  # no colour begins with a vowel
            colour, kind = yield from clause("a <free> <free> .", world.COLOUR, world.GARMENT)
            subject.garment = (colour, kind)
        case "cleaned":
            assert subject.garment is not None
            yield from clause("<pronoun> <garment> <garment> .", subject.possessive, *subject.garment)
        case _:
            yield from _moves(cast, subject)


def _moves(cast: Cast, subject: Character) -> Slots[None]:
    """<moved> [<manner>] to the <place> [with <name>]."""
    word = yield Constraint.FREE, _MANNER_OR_TO
    (subject.location,) = yield from clause(
        "the <place>" if word == "to" else "to the <place>", world.NEIGHBOUR_OF[subject.location]
    )
    word = yield Constraint.SYNTAX, _WITH_OR_STOP
    if word == "with":
        companion = yield from cast.other_character(subject)
        companion.location = subject.location
        yield from clause(".")


def _feels(cast: Cast, subject: Character) -> Slots[None]:
    """Felt <mood> [because <name> was <their mood>]."""
    subject.mood = yield Constraint.FREE, world.MOOD
    moods = {other.name: other.mood for other in cast.characters.values() if other.mood and other is not subject}
    word = yield Constraint.SYNTAX, _BECAUSE_OR_STOP if moods else certain(".")
    if word == "because":
        name = yield Constraint.NAME, uniform(moods)
        yield from clause("was <mood> .", moods[name])


def _asks(cast: Cast, subject: Character) -> Slots[None]:
    """Asked <name>, are you <mood>? <name> said <yes or no>. If the mood was unknown, a yes states it."""
    asked = yield from cast.other_character(subject)
    guess = world.MOOD
    if asked.mood is not None:
        guess = {mood: 0.5 * p + (0.5 if mood == asked.mood else 0.0) for mood, p in world.MOOD.items()}
    mood, _ = yield from clause(", are you <free> ? <name> said", guess, asked.name)
    truth = _YES_OR_NO if asked.mood is None else certain("yes" if mood == asked.mood else "no")
    (answer,) = yield from clause("<answer> .", truth)
    if answer == "yes":
        asked.mood = mood


def _gives(cast: Cast, subject: Character) -> Slots[None]:
    """Took the <colour> <things> and gave <count of them, or it> to <name> [and had <rest> left]."""
    yield from clause("the")
    item = yield from own_item(subject)
    several, count = item.count > 1, 1
    if several:
        (number,) = yield from clause("and gave <count> of them to", uniform(NUMBERS[1 : item.count + 1]))
        count = world.COUNT_OF[number]
    else:
        yield from clause("and gave it to")
    receiver = yield from cast.other_character(subject)
    subject.give(item, count, receiver)
    word = yield Constraint.SYNTAX, _AND_OR_STOP if several else certain(".")
    if word == "and":
        yield from clause("had <count> left .", NUMBERS[item.count])


# ---------------------------------------------------------------- drawing stories


def draw(distribution: Distribution, rng: random.Random) -> str:
    """Draw one word. A certain word uses no random number."""
    if len(distribution) == 1:
        return next(iter(distribution))
    left = rng.random()
    for word, probability in distribution.items():
        left -= probability
        if left < 0:
            return word
    return word  # the last one, if rounding leaves a remainder


def sample_story(length: int, rng: random.Random) -> list[str]:
    """The first `length` words of a story drawn with `rng`."""
    slots = story_slots()
    _, distribution = next(slots)
    words = []
    for _ in range(length):
        words.append(draw(distribution, rng))
        _, distribution = slots.send(words[-1])
    return words


def story_of(purpose: str, index: int, length: int = LONGEST_WINDOW) -> list[str]:
    """The first `length` words of story `index` of the set `purpose`: training, validation or heldout.

    Purpose and index alone decide the random seed, so the sets never share a random stream.
    """
    return sample_story(length, random.Random(f"dlmbench tiny corpus, {purpose}, {index}"))


def heldout_stories(count: int, length: int, first: int = 0) -> list[list[str]]:
    """The first `length` words of `count` stories on which no embedded model was trained.

    They start at the first word, so that the oracle knows everything that later words refer to.
    """
    return [story_of("heldout", index, length) for index in range(first, first + count)]
