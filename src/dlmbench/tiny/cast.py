"""Who is in a story and what they carry: all that the words so far have told, and the choices that depend on it."""

from dataclasses import dataclass, field

from dlmbench.tiny import world
from dlmbench.tiny.constraint import Constraint, Telling
from dlmbench.tiny.vocabulary import FEMALE_NAMES, PLURALS
from dlmbench.tiny.world import Distribution, keep, normalised, uniform

_FEMALE = frozenset(FEMALE_NAMES)


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

    def give(self, item: Item, count: int, receiver: "Character") -> None:
        """Hand over `count` of `item`; the receiver puts them with what is alike."""
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
        self.focus: Character | None = None  # whom a pronoun means
        self.animal: str | None = None  # the animal seen last, until it has been told of

    def enter(self, character: Character) -> Character:
        """Put a new character into the story."""
        self.characters[character.name] = character
        return character

    def unused_roles(self, trait: str) -> Distribution:
        """Roles for a newcomer with `trait`: each role has one bearer, so that `the baker` is one person."""
        used = {character.role for character in self.characters.values()}
        return keep(world.ROLE_OF_TRAIT[trait], lambda role: role not in used)

    def unused_objects(self) -> list[str]:
        """Objects that nobody carries, in the singular: two characters have the same object only by sharing."""
        carried = {item.object for character in self.characters.values() for item in character.items}
        return [thing for thing in PLURALS if thing not in carried]

    def somebody_but(self, subject: Character) -> Telling[Character]:
        """The name of another character; returns the character."""
        name = yield Constraint.NAME, uniform(name for name in self.characters if name != subject.name)
        return self.characters[name]

    def new_item(self, owner: Character) -> Telling[None]:
        """<count> <colour> <things>: a new item of `owner`, likely one that suits their role."""
        count = world.COUNT_OF[(yield Constraint.FREE, world.COUNT_OF_NEW)]
        colour = yield Constraint.FREE, world.COLOUR
        likely = world.OBJECT_OF_ROLE[owner.role]
        noun_of = {thing: thing if count == 1 else PLURALS[thing] for thing in self.unused_objects()}
        noun = yield Constraint.PLURAL, normalised({noun_of[thing]: likely[thing] for thing in noun_of})
        thing = next(thing for thing, its_noun in noun_of.items() if its_noun == noun)
        owner.items.append(Item(colour, thing, count))


def own_item(owner: Character) -> Telling[Item]:
    """<colour> <things>: something that `owner` carries; returns it."""
    kinds: dict[str, float] = {}
    for item in owner.items:
        kinds[item.colour] = kinds.get(item.colour, 0.0) + 1.0
    colour = yield Constraint.ITEM, normalised(kinds)
    by_noun = {item.noun(): item for item in owner.items if item.colour == colour}
    noun = yield Constraint.ITEM, uniform(by_noun)
    return by_noun[noun]
