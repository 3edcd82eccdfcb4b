"""The state of a story, and the slots that its words fill.

The grammar is a set of coroutines. Each yields a slot for every word of its part of a sentence (the constraint on the
word, and the exact distribution of the words that are possible there) and is sent the word.
"""

from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import TypeVar

from dlmbench.tiny import world
from dlmbench.tiny.vocabulary import FEMALE_NAMES, PLURALS
from dlmbench.tiny.world import Distribution, Indefinite, normalised, restrict, uniform


class Constraint(StrEnum):
    """What a word must agree with; the oracle counts violations by constraint."""

    SYNTAX = "syntax"  # the frame of the sentence
    FREE = "free"  # a new fact: any word of the class, with the world's probabilities
    ARTICLE = "article"  # a or an
    SUBJECT = "subject"  # a possible start of a sentence, or after its adverb
    VERB = "verb"  # an action that is possible for the subject now
    PRONOUN = "pronoun"  # the gender of a name
    NAME = "name"  # a character of the story (for a newcomer: not yet one)
    ROLE = "role"  # the role of a character, or the animal just seen
    PLACE = "place"  # a place next to where the subject is
    LOCATION = "location"  # the place where the subject is
    HOME = "home"  # the place where the subject came from
    ANIMAL = "animal"  # an animal that lives here
    LANDMARK = "landmark"  # a landmark of this place
    NATURE = "nature"  # a state that this animal can be in
    MOOD = "mood"  # the mood stated before
    ANSWER = "answer"  # yes or no, by the mood stated before
    GARMENT = "garment"  # what the subject wears
    ITEM = "item"  # something that the subject carries
    PLURAL = "plural"  # singular after one, else plural; nothing that is already carried
    COUNT = "count"  # how many there are


Slot = tuple[Constraint, Distribution]
Result = TypeVar("Result")
Slots = Generator[Slot, str, Result]


@cache
def certain(word: str) -> Distribution:
    """The distribution with a single possible word."""
    return {word: 1.0}


def clause(template: str, *choices: str | Distribution) -> Slots[list[str]]:
    """The words of `template`, where each <constraint> is the next of `choices`; returns the words there.

    A choice is a word that the story so far has fixed, or the distribution of the possible words.
    """
    chosen, left = [], iter(choices)
    for part in template.split():
        if part.startswith("<"):
            choice = next(left)
            chosen.append((yield Constraint(part[1:-1]), certain(choice) if isinstance(choice, str) else choice))
        else:
            yield Constraint.SYNTAX, certain(part)
    return chosen


def indefinite(choice: Indefinite, constraint: Constraint) -> Slots[str]:
    """An article and then a word that it fits; returns the word."""
    article = yield Constraint.ARTICLE, choice.article
    word = yield constraint, choice.word[article]
    return word


@dataclass(slots=True)
class Item:
    """Some identical objects that a character carries."""

    colour: str
    object: str  # in the singular
    count: int

    def noun(self) -> str:
        """The object in the singular or plural, by `count`."""
        return self.object if self.count == 1 else PLURALS[self.object]


@dataclass(slots=True)
class Character:
    """A character, with everything that the story has said about them."""

    name: str
    role: str
    home: str
    location: str
    items: list[Item] = field(default_factory=list)
    mood: str | None = None
    garment: tuple[str, str] | None = None  # colour and kind

    @property
    def pronoun(self) -> str:
        """She or he."""
        return "she" if self.name in FEMALE_NAMES else "he"

    @property
    def possessive(self) -> str:
        """Her or his."""
        return "her" if self.name in FEMALE_NAMES else "his"

    def give(self, item: Item, count: int, receiver: "Character") -> None:
        """Give `count` of `item` to `receiver`, who adds them to identical objects."""
        alike = (other for other in receiver.items if (other.colour, other.object) == (item.colour, item.object))
        received = next(alike, None)
        if received is None:
            receiver.items.append(Item(item.colour, item.object, count))
        else:
            received.count += count
        item.count -= count
        if item.count == 0:
            self.items.remove(item)


class Cast:
    """The state of a story."""

    def __init__(self) -> None:
        self.characters: dict[str, Character] = {}  # by name, in order of appearance
        self.focus: Character | None = None  # the character that a pronoun refers to
        self.animal: str | None = None  # the animal seen last, until a sentence mentions it again

    def enter(self, character: Character) -> Character:
        """Add a new character to the story."""
        self.characters[character.name] = character
        return character

    def unused_roles(self, trait: str) -> Distribution:
        """Roles for a newcomer with `trait`. No two characters share a role, so that `the baker` is one person."""
        used = {character.role for character in self.characters.values()}
        return restrict(world.ROLE_OF_TRAIT[trait], lambda role: role not in used)

    def unused_objects(self) -> list[str]:
        """Objects that nobody carries, in the singular: two characters have the same object only after giving."""
        carried = {item.object for character in self.characters.values() for item in character.items}
        return [thing for thing in PLURALS if thing not in carried]

    def other_character(self, subject: Character) -> Slots[Character]:
        """The name of a character other than `subject`; returns that character."""
        name = yield Constraint.NAME, uniform(name for name in self.characters if name != subject.name)
        return self.characters[name]

    def new_item(self, owner: Character) -> Slots[None]:
        """<count> <colour> <things>: a new item of `owner`, probably one that suits their role."""
        count = world.COUNT_OF[(yield Constraint.FREE, world.COUNT_OF_NEW)]
        colour = yield Constraint.FREE, world.COLOUR
        weights = world.OBJECT_OF_ROLE[owner.role]
        noun_of = {thing: thing if count == 1 else PLURALS[thing] for thing in self.unused_objects()}
        noun = yield Constraint.PLURAL, normalised({noun_of[thing]: weights[thing] for thing in noun_of})
        thing = next(thing for thing, its_noun in noun_of.items() if its_noun == noun)
        owner.items.append(Item(colour, thing, count))


def own_item(owner: Character) -> Slots[Item]:
    """<colour> <things>: an item that `owner` carries; returns it."""
    colour = yield Constraint.ITEM, normalised(Counter(item.colour for item in owner.items))
    by_noun = {item.noun(): item for item in owner.items if item.colour == colour}
    noun = yield Constraint.ITEM, uniform(by_noun)
    return by_noun[noun]
