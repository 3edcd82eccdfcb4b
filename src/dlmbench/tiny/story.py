"""The grammar of the tiny stories: one coroutine that both writes stories and checks them.

`tell()` yields, for each next word, the constraint that the word is under and the exact distribution over the words that may stand there,
and is sent the word that does. Every choice is between distinct words at the place where it is made, so the words so far determine the
whole state of the story, and p(next word | words so far) is what the coroutine yields: no hidden choice has to be summed over. Sampling
sends it drawn words, scoring sends it a given text's; there is one source of truth.
"""

import random
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from dlmbench.tiny import world
from dlmbench.tiny.vocabulary import FEMALE_NAMES, NUMBERS, PLURALS
from dlmbench.tiny.world import Distribution, Indefinite, keep, normalised, uniform


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


@dataclass(slots=True)
class Item:
    """Some equal things that a character carries."""

    colour: str
    object: str  # in the singular
    count: int

    def noun(self) -> str:
        """The object's word, in the number that `count` asks for."""
        return self.object if self.count == 1 else PLURALS[self.object]


@dataclass(slots=True)
class Character:
    """Somebody in the story, with all that the story has told of them."""

    name: str
    role: str
    home: str
    location: str
    items: list[Item] = field(default_factory=list)
    mood: str | None = None
    garment: tuple[str, str] | None = None  # colour and kind

    @property
    def pronoun(self) -> str:
        """She or he, by the name."""
        return "she" if self.name in _FEMALE else "he"

    @property
    def possessive(self) -> str:
        """Her or his, by the name."""
        return "her" if self.name in _FEMALE else "his"


_FEMALE = frozenset(FEMALE_NAMES)
_CERTAIN: dict[str, Distribution] = {}


def _certain(word: str) -> Distribution:
    if word not in _CERTAIN:
        _CERTAIN[word] = {word: 1.0}
    return _CERTAIN[word]


def _literally(text: str) -> Telling[None]:
    for word in text.split():
        yield Constraint.SYNTAX, _certain(word)


def _must(constraint: Constraint, word: str) -> Telling[None]:
    yield constraint, _certain(word)


def _indefinite(choice: Indefinite, constraint: Constraint) -> Telling[str]:
    article = yield Constraint.ARTICLE, choice.article
    word = yield constraint, choice.word[article]
    return word


_OPENING = {"once": 0.6, "long": 0.4}
_ADVERB_SHARE, _PRONOUN_SHARE, _THE_SHARE, _SKY_SHARE, _NEWCOMER_SHARE, _NAME_SHARE = 0.10, 0.30, 0.20, 0.03, 0.07, 0.45
_MOST_CHARACTERS = 3
_MOST_FINDS = 2  # who carries this many kinds of things finds no more


class Story:
    """The state of one story. Its methods each tell one kind of sentence, or a part of one."""

    def __init__(self) -> None:
        self.characters: dict[str, Character] = {}  # by name, in order of appearance
        self.focus: Character | None = None  # whom a pronoun means
        self.animal: str | None = None  # the animal seen last, until it has been told of

    def tell(self) -> Telling[None]:
        """The story, without end."""
        yield from self._opening()
        while True:
            yield from self._sentence()

    # Choices ------------------------------------------------------------------------------------------------

    def _unused_role(self, trait: str) -> Distribution:
        used = {character.role for character in self.characters.values()}
        return keep(world.ROLE_OF_TRAIT[trait], lambda role: role not in used)

    def _unused_objects(self) -> list[str]:
        carried = {item.object for character in self.characters.values() for item in character.items}
        return [thing for thing in PLURALS if thing not in carried]

    def _somebody_else(self, subject: Character) -> Telling[Character]:
        name = yield Constraint.NAME, uniform(name for name in self.characters if name != subject.name)
        return self.characters[name]

    def _new_item(self, owner: Character) -> Telling[None]:
        count = world.COUNT_OF[(yield Constraint.FREE, world.COUNT_OF_NEW)]
        colour = yield Constraint.FREE, world.COLOUR
        likely = world.OBJECT_OF_ROLE[owner.role]
        noun_of = {thing: thing if count == 1 else PLURALS[thing] for thing in self._unused_objects()}
        noun = yield Constraint.PLURAL, normalised({noun_of[thing]: likely[thing] for thing in noun_of})
        thing = next(thing for thing, its_noun in noun_of.items() if its_noun == noun)
        owner.items.append(Item(colour, thing, count))

    def _own_item(self, owner: Character) -> Telling[Item]:
        kinds: dict[str, float] = {}
        for item in owner.items:
            kinds[item.colour] = kinds.get(item.colour, 0.0) + 1.0
        colour = yield Constraint.ITEM, normalised(kinds)
        by_noun = {item.noun(): item for item in owner.items if item.colour == colour}
        noun = yield Constraint.ITEM, uniform(by_noun)
        return by_noun[noun]

    # The opening --------------------------------------------------------------------------------------------

    def _opening(self) -> Telling[None]:
        """Long ago, <hero> the <trait> <role> lived in the <place>. She had a <relation> named ..."""
        opening = yield Constraint.SYNTAX, _OPENING
        yield from _literally("upon a time ," if opening == "once" else "ago ,")
        name = yield Constraint.FREE, world.NAME
        yield from _literally("the")
        trait = yield Constraint.FREE, world.TRAIT_OF_HERO
        role = yield Constraint.FREE, world.ROLE_OF_TRAIT[trait]
        yield from _literally("lived in the")
        home = yield Constraint.FREE, world.PLACE
        yield from _literally(".")
        hero = self._enter(Character(name, role, home, location=home))
        yield from _must(Constraint.PRONOUN, hero.pronoun)
        yield from _literally("had a")
        relation = yield Constraint.FREE, world.RELATION
        yield from _literally("named")
        name = yield Constraint.NAME, keep(world.NAME_OF_RELATION[relation], lambda other: other != hero.name)
        yield from _literally(",")
        trait = yield from _indefinite(world.TRAIT, Constraint.FREE)
        role = yield Constraint.ROLE, self._unused_role(trait)
        yield from _literally("from the")
        home = yield Constraint.FREE, world.PLACE
        yield from _literally(".")
        self._enter(Character(name, role, home, location=home))
        yield from _must(Constraint.NAME, hero.name)
        yield from _literally("carried")
        yield from self._new_item(hero)
        yield from _literally("in")
        yield from _must(Constraint.PRONOUN, hero.possessive)
        yield Constraint.FREE, world.CONTAINER
        yield from _literally(".")
        self.focus = hero

    def _enter(self, character: Character) -> Character:
        self.characters[character.name] = character
        return character

    # Sentences ----------------------------------------------------------------------------------------------

    def _sentence(self) -> Telling[None]:
        assert self.focus is not None
        first = yield Constraint.SUBJECT, self._first_words(self.focus)
        if first == "at":
            yield from self._sky()
        elif first in world.TRAIT.article:
            yield from self._newcomer(first, self.focus)
        else:
            if first in world.ADVERB:
                yield from _literally(",")
                first = yield Constraint.SUBJECT, self._subjects(self.focus)
            subject = yield from self._subject(first, self.focus)
            if subject is None:
                yield from self._animal_again()
            else:
                self.focus = subject
                verb = yield Constraint.VERB, self._verbs(subject)
                yield from self._predicate(verb, subject)

    def _first_words(self, focus: Character) -> Distribution:
        weights = {focus.pronoun: _PRONOUN_SHARE, "the": _THE_SHARE, "at": _SKY_SHARE}
        if len(self.characters) < _MOST_CHARACTERS:
            for article, probability in world.TRAIT.article.items():
                weights[article] = _NEWCOMER_SHARE * probability
        for character in self.characters.values():
            preference = 0.5 if character is focus else 1.3
            weights[character.name] = _NAME_SHARE / len(self.characters) * preference
        for adverb, probability in world.ADVERB.items():
            weights[adverb] = _ADVERB_SHARE * probability
        return normalised(weights)

    def _subjects(self, focus: Character) -> Distribution:
        weights = {focus.pronoun: 0.3, "the": 0.1}
        for name in self.characters:
            weights[name] = 0.6 / len(self.characters)
        return normalised(weights)

    def _subject(self, first: str, focus: Character) -> Telling[Character | None]:
        """The character that `first` leads to; none when it is the animal that was seen."""
        if first != "the":
            return self.characters.get(first, focus)
        weights = {character.role: 1.0 for character in self.characters.values()}
        if self.animal is not None:
            weights[self.animal] = 1.2
        noun = yield Constraint.ROLE, normalised(weights)
        return next((character for character in self.characters.values() if character.role == noun), None)

    def _verbs(self, subject: Character) -> Distribution:
        weights = {motion: 0.16 * probability for motion, probability in world.MOTION.items()}
        weights |= {"saw": 0.06, "felt": 0.09, "asked": 0.07, "remembered": 0.05, "looked": 0.05}
        if subject.items:
            weights |= {"took": 0.24, "counted": 0.18}
        if len(subject.items) < _MOST_FINDS and self._unused_objects():
            weights["found"] = 0.12
        if subject.mood is not None:
            weights["remained"] = 0.10
        weights["cleaned" if subject.garment else "wore"] = 0.12
        return normalised(weights)

    def _predicate(self, verb: str, subject: Character) -> Telling[None]:
        if verb in world.MOTION:
            yield from self._moves(subject)
        else:
            yield from _PREDICATES[verb](self, subject)

    def _sky(self) -> Telling[None]:
        """At <hour> the sky was <sky>."""
        yield Constraint.FREE, world.HOUR
        yield from _literally("the sky was")
        yield Constraint.FREE, world.SKY
        yield from _literally(".")

    def _newcomer(self, article: str, focus: Character) -> Telling[None]:
        """A <trait> <role> named <name> arrived from the <home>; now where the focus is, and the focus."""
        trait = yield Constraint.FREE, world.TRAIT.word[article]
        role = yield Constraint.ROLE, self._unused_role(trait)
        yield from _literally("named")
        name = yield Constraint.NAME, keep(world.NAME, lambda name: name not in self.characters)
        yield from _literally("arrived from the")
        home = yield Constraint.FREE, world.PLACE
        yield from _literally(".")
        self.focus = self._enter(Character(name, role, home, location=focus.location))

    def _animal_again(self) -> Telling[None]:
        """The <animal> was <state>."""
        assert self.animal is not None
        yield from _literally("was")
        yield Constraint.NATURE, world.STATE_OF[self.animal]
        yield from _literally(".")
        self.animal = None

    def _moves(self, subject: Character) -> Telling[None]:
        """<moved> [<manner>] to the <place> [with <name>]."""
        word = yield Constraint.FREE, _MANNER_OR_TO
        if word != "to":
            yield from _literally("to")
        yield from _literally("the")
        subject.location = yield Constraint.PLACE, world.NEIGHBOUR_OF[subject.location]
        word = yield Constraint.SYNTAX, _WITH_OR_STOP
        if word == "with":
            companion = yield from self._somebody_else(subject)
            companion.location = subject.location
            yield from _literally(".")

    def _sees(self, subject: Character) -> Telling[None]:
        """Saw a <animal> in the <location>."""
        self.animal = yield from _indefinite(world.ANIMAL_OF[subject.location], Constraint.ANIMAL)
        yield from _literally("in the")
        yield from _must(Constraint.LOCATION, subject.location)
        yield from _literally(".")

    def _feels(self, subject: Character) -> Telling[None]:
        """Felt <mood> [because <name> was <their mood>]."""
        subject.mood = yield Constraint.FREE, world.MOOD
        moody = [name for name, other in self.characters.items() if other.mood is not None and other is not subject]
        word = yield Constraint.SYNTAX, _BECAUSE_OR_STOP if moody else _certain(".")
        if word == "because":
            name = yield Constraint.NAME, uniform(moody)
            yield from _literally("was")
            yield from _must(Constraint.MOOD, self.characters[name].mood or "")
            yield from _literally(".")

    def _remains(self, subject: Character) -> Telling[None]:
        """Remained <mood>."""
        yield from _must(Constraint.MOOD, subject.mood or "")
        yield from _literally(".")

    def _asks(self, subject: Character) -> Telling[None]:
        """Asked <name>, are you <mood>? <name> said <yes or no>. Where no mood was told, a yes tells it."""
        asked = yield from self._somebody_else(subject)
        yield from _literally(", are you")
        guess = world.MOOD
        if asked.mood is not None:
            guess = {mood: 0.5 * p + (0.5 if mood == asked.mood else 0.0) for mood, p in world.MOOD.items()}
        mood = yield Constraint.FREE, guess
        yield from _literally("?")
        yield from _must(Constraint.NAME, asked.name)
        yield from _literally("said")
        if asked.mood is not None:
            yield from _must(Constraint.ANSWER, "yes" if mood == asked.mood else "no")
        elif (yield Constraint.ANSWER, _YES_OR_NO) == "yes":
            asked.mood = mood
        yield from _literally(".")

    def _remembers(self, subject: Character) -> Telling[None]:
        """Remembered her home in the <home>."""
        yield from _must(Constraint.PRONOUN, subject.possessive)
        yield from _literally("home in the")
        yield from _must(Constraint.HOME, subject.home)
        yield from _literally(".")

    def _looks(self, subject: Character) -> Telling[None]:
        """Looked at the <landmark> in the <location>."""
        yield from _literally("at the")
        yield Constraint.LANDMARK, world.LANDMARK_OF[subject.location]
        yield from _literally("in the")
        yield from _must(Constraint.LOCATION, subject.location)
        yield from _literally(".")

    def _gives(self, subject: Character) -> Telling[None]:
        """Took the <colour> <things> and gave <count> of them to <name> [and had <rest> left]."""
        yield from _literally("the")
        item = yield from self._own_item(subject)
        several = item.count > 1
        yield from _literally("and gave")
        given = 1
        if several:
            given = world.COUNT_OF[(yield Constraint.COUNT, uniform(NUMBERS[1 : item.count + 1]))]
            yield from _literally("of them to")
        else:
            yield from _literally("it to")
        receiver = yield from self._somebody_else(subject)
        self._hand_over(item, given, subject, receiver)
        word = yield Constraint.SYNTAX, _AND_OR_STOP if several else _certain(".")
        if word == "and":
            yield from _literally("had")
            yield from _must(Constraint.COUNT, NUMBERS[item.count])
            yield from _literally("left .")

    @staticmethod
    def _hand_over(item: Item, given: int, giver: Character, receiver: Character) -> None:
        same = (other for other in receiver.items if (other.colour, other.object) == (item.colour, item.object))
        received = next(same, None)
        if received is None:
            receiver.items.append(Item(item.colour, item.object, given))
        else:
            received.count += given
        item.count -= given
        if item.count == 0:
            giver.items.remove(item)

    def _counts(self, subject: Character) -> Telling[None]:
        """Counted her <colour> <things>, there were <count>."""
        yield from _must(Constraint.PRONOUN, subject.possessive)
        item = yield from self._own_item(subject)
        yield from _literally(", there were" if item.count > 1 else ", there was")
        yield from _must(Constraint.COUNT, NUMBERS[item.count])
        yield from _literally(".")

    def _finds(self, subject: Character) -> Telling[None]:
        """Found <count> <colour> <things> <near> the <landmark>."""
        yield from self._new_item(subject)
        yield Constraint.FREE, world.PREPOSITION
        yield from _literally("the")
        yield Constraint.LANDMARK, world.LANDMARK_OF[subject.location]
        yield from _literally(".")

    def _puts_on(self, subject: Character) -> Telling[None]:
        """Wore a <colour> <garment>."""
        yield from _literally("a")
        colour = yield Constraint.FREE, world.COLOUR
        kind = yield Constraint.FREE, world.GARMENT
        subject.garment = (colour, kind)
        yield from _literally(".")

    def _cleans(self, subject: Character) -> Telling[None]:
        """Cleaned her <colour> <garment>."""
        assert subject.garment is not None
        yield from _must(Constraint.PRONOUN, subject.possessive)
        for word in subject.garment:
            yield from _must(Constraint.GARMENT, word)
        yield from _literally(".")


_MANNER_OR_TO = normalised({"to": 0.75} | {manner: 0.25 * p for manner, p in world.MANNER.items()})
_WITH_OR_STOP = {".": 0.7, "with": 0.3}
_BECAUSE_OR_STOP = {".": 0.6, "because": 0.4}
_AND_OR_STOP = {".": 0.5, "and": 0.5}
_YES_OR_NO = {"yes": 0.6, "no": 0.4}
_PREDICATES = {
    "saw": Story._sees,
    "felt": Story._feels,
    "remained": Story._remains,
    "asked": Story._asks,
    "remembered": Story._remembers,
    "looked": Story._looks,
    "took": Story._gives,
    "counted": Story._counts,
    "found": Story._finds,
    "wore": Story._puts_on,
    "cleaned": Story._cleans,
}


def draw(distribution: Distribution, rng: random.Random) -> str:
    """One word of `distribution`. A certain word costs no random number."""
    if len(distribution) == 1:
        return next(iter(distribution))
    left = rng.random()
    word = ""
    for word, probability in distribution.items():
        left -= probability
        if left < 0:
            break
    return word  # the last one where rounding has left a crumb


def story_words(rng: random.Random) -> Iterator[str]:
    """The words of a story drawn with `rng`, without end."""
    telling = Story().tell()
    _, distribution = next(telling)
    while True:
        word = draw(distribution, rng)
        yield word
        _, distribution = telling.send(word)


def sample_story(length: int, rng: random.Random) -> list[str]:
    """The first `length` words of a story drawn with `rng`."""
    words = story_words(rng)
    return [next(words) for _ in range(length)]
