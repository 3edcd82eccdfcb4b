"""The words of the tiny corpus, their classes and their token ids.

Each word is one token, so grammar and oracle work on words; ids exist only for the models. The two special tokens come
after the words, as in LLaDA's tokenizer. The mask token is not in the tokenizer: its id is in the padded part of the
embedding.
"""

from collections.abc import Iterable, Sequence

FEMALE_NAMES = (
    "anna", "bella", "clara", "daisy", "emma", "fiona", "grace", "hannah", "iris", "julia",
    "kate", "lily", "mary", "nora", "olivia", "paula", "rosa", "sara", "tina", "vera",
)  # fmt: skip
MALE_NAMES = (
    "adam", "ben", "carl", "david", "eric", "frank", "george", "henry", "ivan", "jack",
    "kevin", "leo", "martin", "noah", "oscar", "peter", "ralph", "simon", "tom", "victor",
)  # fmt: skip
ROLES = (
    "baker", "farmer", "sailor", "teacher", "doctor", "painter", "hunter", "singer", "weaver", "miller",
    "tailor", "guard", "priest", "smith", "potter", "writer", "dancer", "gardener", "merchant", "soldier",
    "shepherd", "fisher", "carpenter", "cook",
)  # fmt: skip
TRAITS = (
    "kind", "brave", "clever", "gentle", "quiet", "proud", "young", "old", "tall", "shy",
    "funny", "patient", "upright", "lazy", "strong", "careful", "polite", "stubborn", "cheerful", "wise",
)  # fmt: skip
PLACES = (
    "village", "forest", "harbor", "castle", "market", "meadow", "river", "mountain", "valley", "library",
    "garden", "chapel", "tower", "bridge", "lake", "island", "farm", "mill", "inn", "cave", "desert", "beach",
    "temple", "orchard",
)  # fmt: skip
COLOURS = ("red", "blue", "green", "yellow", "white", "black", "golden", "silver")
PLURALS = {
    "apple": "apples", "book": "books", "coin": "coins", "candle": "candles", "key": "keys",
    "ribbon": "ribbons", "stone": "stones", "shell": "shells", "feather": "feathers", "button": "buttons",
    "cup": "cups", "flower": "flowers", "letter": "letters", "ring": "rings", "bottle": "bottles",
    "lamp": "lamps", "spoon": "spoons", "nut": "nuts", "bell": "bells", "mirror": "mirrors",
}  # fmt: skip
NUMBERS = ("none", "one", "two", "three", "four", "five", "six")
ANIMALS = (
    "fox", "owl", "rabbit", "deer", "bear", "wolf", "horse", "goat", "sheep", "cat", "dog", "crow", "swan",
    "duck", "frog", "snake", "mouse", "hedgehog", "eagle", "donkey", "turtle", "squirrel", "otter", "badger",
)  # fmt: skip
ANIMAL_STATES = ("hungry", "sleepy", "wild", "tiny", "huge", "friendly", "angry", "lame", "fast", "silent")
MOODS = (
    "happy", "sad", "afraid", "tired", "calm", "worried", "excited", "lonely", "grateful", "bored", "curious",
    "hopeful",
)  # fmt: skip
GARMENTS = ("hat", "coat", "scarf", "cloak", "dress", "shirt", "belt", "apron", "vest", "jacket")
CONTAINERS = ("basket", "bag", "box", "sack", "chest", "bucket", "pocket", "cart")
LANDMARKS = (
    "well", "gate", "tree", "fountain", "fence", "statue", "bench", "rock", "stairs", "wall",
    "door", "stump", "pond", "sign", "fireplace", "boat", "barn", "hedge", "ladder", "window",
)  # fmt: skip
MOTIONS = ("walked", "ran", "hurried", "went", "wandered", "travelled")
ADVERBS = ("then", "later", "soon", "afterwards", "suddenly", "finally")
MANNERS = ("slowly", "quickly", "quietly", "happily", "alone")
PREPOSITIONS = ("near", "under", "behind", "beside")
SKIES = ("cloudy", "clear", "dark", "bright", "rainy", "foggy", "windy", "snowy")
HOURS = ("dawn", "noon", "dusk", "midnight")
RELATIONS = ("friend", "sister", "brother", "cousin", "neighbor")
SUBJECT_PRONOUNS = ("she", "he")
POSSESSIVES = ("her", "his")
ANSWERS = ("yes", "no")
ARTICLES = ("a", "an")
FUNCTION_WORDS = (
    "once", "upon", "time", "long", "ago", ",", "the", "lived", "in", ".", "had", "named", "carried", "wore",
    "and", "was", "arrived", "from", "to", "with", "gave", "took", "of", "them", "it", "left", "found", "saw",
    "felt", "remained", "because", "cleaned", "remembered", "home", "counted", "there", "were", "asked", "are",
    "you", "?", "said", "looked", "at", "sky",
)  # fmt: skip

WORD_CLASSES: dict[str, tuple[str, ...]] = {
    "name": FEMALE_NAMES + MALE_NAMES,
    "role": ROLES,
    "trait": TRAITS,
    "place": PLACES,
    "colour": COLOURS,
    "object": (*PLURALS, *PLURALS.values()),
    "number": NUMBERS,
    "animal": ANIMALS,
    "animal state": ANIMAL_STATES,
    "mood": MOODS,
    "garment": GARMENTS,
    "container": CONTAINERS,
    "landmark": LANDMARKS,
    "motion": MOTIONS,
    "adverb": ADVERBS,
    "manner": MANNERS,
    "preposition": PREPOSITIONS,
    "sky": SKIES,
    "hour": HOURS,
    "relation": RELATIONS,
    "subject pronoun": SUBJECT_PRONOUNS,
    "possessive": POSSESSIVES,
    "answer": ANSWERS,
    "article": ARTICLES,
    "function word": FUNCTION_WORDS,
}
CLASS_OF_WORD = {word: word_class for word_class, words in WORD_CLASSES.items() for word in words}
WORDS = tuple(CLASS_OF_WORD)

START_OF_TEXT = "<|startoftext|>"
END_OF_TEXT = "<|endoftext|>"
TOKENS = (*WORDS, START_OF_TEXT, END_OF_TEXT)
TOKEN_IDS = {token: token_id for token_id, token in enumerate(TOKENS)}
START_OF_TEXT_ID = TOKEN_IDS[START_OF_TEXT]
END_OF_TEXT_ID = TOKEN_IDS[END_OF_TEXT]  # also the padding token, as in LLaDA

# A multiple of 128, for the GPU. Of the rows beyond the tokenizer's length only the mask's is used.
EMBEDDING_SIZE = 384
MASK_TOKEN_ID = EMBEDDING_SIZE - 1

assert sum(map(len, WORD_CLASSES.values())) == len(WORDS), "a word is in two classes"
assert len(TOKENS) < MASK_TOKEN_ID


def encode(words: Iterable[str]) -> list[int]:
    """Token ids of `words`. Raises KeyError for a word that is not in the vocabulary."""
    return [TOKEN_IDS[word] for word in words]


def decode(token_ids: Sequence[int]) -> list[str]:
    """Words of `token_ids`; ids without a token (mask, unused rows) become `<unused N>`, which no story contains."""
    return [TOKENS[token_id] if token_id < len(TOKENS) else f"<unused {token_id}>" for token_id in token_ids]
