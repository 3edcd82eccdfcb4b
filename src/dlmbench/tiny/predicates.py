"""What a character of a story can do: for each verb, the rest of its sentence and what it changes.

Every function tells the words after the verb. Facts told once (a mood, a garment, a count, a home) are the only
possible words later: to get them right is what the oracle's constraints measure.
"""

from collections.abc import Callable

from dlmbench.tiny import world
from dlmbench.tiny.cast import Cast, Character, own_item
from dlmbench.tiny.constraint import Constraint, Telling, certain, indefinite, literally, must
from dlmbench.tiny.vocabulary import NUMBERS
from dlmbench.tiny.world import Distribution, normalised, uniform

_MANNER_OR_TO = normalised({"to": 0.75} | {manner: 0.25 * p for manner, p in world.MANNER.items()})
_WITH_OR_STOP = {".": 0.7, "with": 0.3}
_BECAUSE_OR_STOP = {".": 0.6, "because": 0.4}
_AND_OR_STOP = {".": 0.5, "and": 0.5}
_YES_OR_NO = {"yes": 0.6, "no": 0.4}
_MOST_FINDS = 2  # who carries this many kinds of things finds no more


def verbs(cast: Cast, subject: Character) -> Distribution:
    """What `subject` is able to do now."""
    weights = {motion: 0.16 * probability for motion, probability in world.MOTION.items()}
    weights |= {"saw": 0.06, "felt": 0.09, "asked": 0.07, "remembered": 0.05, "looked": 0.05}
    if subject.items:
        weights |= {"took": 0.24, "counted": 0.18}
    if len(subject.items) < _MOST_FINDS and cast.unused_objects():
        weights["found"] = 0.12
    if subject.mood is not None:
        weights["remained"] = 0.10
    weights["cleaned" if subject.garment else "wore"] = 0.12
    return normalised(weights)


def predicate(verb: str, cast: Cast, subject: Character) -> Telling[None]:
    """The rest of the sentence after `verb`."""
    if verb in world.MOTION:
        return _moves(cast, subject)
    return _PREDICATES[verb](cast, subject)


def _moves(cast: Cast, subject: Character) -> Telling[None]:
    """<moved> [<manner>] to the <place> [with <name>]."""
    word = yield Constraint.FREE, _MANNER_OR_TO
    if word != "to":
        yield from literally("to")
    yield from literally("the")
    subject.location = yield Constraint.PLACE, world.NEIGHBOUR_OF[subject.location]
    word = yield Constraint.SYNTAX, _WITH_OR_STOP
    if word == "with":
        companion = yield from cast.somebody_but(subject)
        companion.location = subject.location
        yield from literally(".")


def _sees(cast: Cast, subject: Character) -> Telling[None]:
    """Saw <an animal> in the <location>."""
    cast.animal = yield from indefinite(world.ANIMAL_OF[subject.location], Constraint.ANIMAL)
    yield from literally("in the")
    yield from must(Constraint.LOCATION, subject.location)
    yield from literally(".")


def _feels(cast: Cast, subject: Character) -> Telling[None]:
    """Felt <mood> [because <name> was <their mood>]."""
    subject.mood = yield Constraint.FREE, world.MOOD
    moods = {other.name: other.mood for other in cast.characters.values() if other.mood and other is not subject}
    word = yield Constraint.SYNTAX, _BECAUSE_OR_STOP if moods else certain(".")
    if word == "because":
        name = yield Constraint.NAME, uniform(moods)
        yield from literally("was")
        yield from must(Constraint.MOOD, moods[name])
        yield from literally(".")


def _remains(_cast: Cast, subject: Character) -> Telling[None]:
    """Remained <mood>."""
    assert subject.mood is not None
    yield from must(Constraint.MOOD, subject.mood)
    yield from literally(".")


def _asks(cast: Cast, subject: Character) -> Telling[None]:
    """Asked <name>, are you <mood>? <name> said <yes or no>. Where no mood was told, a yes tells it."""
    asked = yield from cast.somebody_but(subject)
    yield from literally(", are you")
    guess = world.MOOD
    if asked.mood is not None:
        guess = {mood: 0.5 * p + (0.5 if mood == asked.mood else 0.0) for mood, p in world.MOOD.items()}
    mood = yield Constraint.FREE, guess
    yield from literally("?")
    yield from must(Constraint.NAME, asked.name)
    yield from literally("said")
    if asked.mood is not None:
        yield from must(Constraint.ANSWER, "yes" if mood == asked.mood else "no")
    elif (yield Constraint.ANSWER, _YES_OR_NO) == "yes":
        asked.mood = mood
    yield from literally(".")


def _remembers(_cast: Cast, subject: Character) -> Telling[None]:
    """Remembered <her> home in the <home>."""
    yield from must(Constraint.PRONOUN, subject.possessive)
    yield from literally("home in the")
    yield from must(Constraint.HOME, subject.home)
    yield from literally(".")


def _looks(_cast: Cast, subject: Character) -> Telling[None]:
    """Looked at the <landmark> in the <location>."""
    yield from literally("at the")
    yield Constraint.LANDMARK, world.LANDMARK_OF[subject.location]
    yield from literally("in the")
    yield from must(Constraint.LOCATION, subject.location)
    yield from literally(".")


def _gives(cast: Cast, subject: Character) -> Telling[None]:
    """Took the <colour> <things> and gave <count of them, or it> to <name> [and had <rest> left]."""
    yield from literally("the")
    item = yield from own_item(subject)
    several = item.count > 1
    yield from literally("and gave")
    given = 1
    if several:
        given = world.COUNT_OF[(yield Constraint.COUNT, uniform(NUMBERS[1 : item.count + 1]))]
    yield from literally("of them to" if several else "it to")
    receiver = yield from cast.somebody_but(subject)
    subject.give(item, given, receiver)
    word = yield Constraint.SYNTAX, _AND_OR_STOP if several else certain(".")
    if word == "and":
        yield from literally("had")
        yield from must(Constraint.COUNT, NUMBERS[item.count])
        yield from literally("left .")


def _counts(_cast: Cast, subject: Character) -> Telling[None]:
    """Counted <her> <colour> <things>, there were <count>."""
    yield from must(Constraint.PRONOUN, subject.possessive)
    item = yield from own_item(subject)
    yield from literally(", there were" if item.count > 1 else ", there was")
    yield from must(Constraint.COUNT, NUMBERS[item.count])
    yield from literally(".")


def _finds(cast: Cast, subject: Character) -> Telling[None]:
    """Found <count> <colour> <things> <near> the <landmark>."""
    yield from cast.new_item(subject)
    yield Constraint.FREE, world.PREPOSITION
    yield from literally("the")
    yield Constraint.LANDMARK, world.LANDMARK_OF[subject.location]
    yield from literally(".")


def _puts_on(_cast: Cast, subject: Character) -> Telling[None]:
    """Wore a <colour> <garment>."""
    yield from literally("a")  # no colour begins with a vowel
    colour = yield Constraint.FREE, world.COLOUR
    kind = yield Constraint.FREE, world.GARMENT
    subject.garment = (colour, kind)
    yield from literally(".")


def _cleans(_cast: Cast, subject: Character) -> Telling[None]:
    """Cleaned <her> <colour> <garment>."""
    assert subject.garment is not None
    yield from must(Constraint.PRONOUN, subject.possessive)
    for word in subject.garment:
        yield from must(Constraint.GARMENT, word)
    yield from literally(".")


_PREDICATES: dict[str, Callable[[Cast, Character], Telling[None]]] = {
    "saw": _sees,
    "felt": _feels,
    "remained": _remains,
    "asked": _asks,
    "remembered": _remembers,
    "looked": _looks,
    "took": _gives,
    "counted": _counts,
    "found": _finds,
    "wore": _puts_on,
    "cleaned": _cleans,
}
