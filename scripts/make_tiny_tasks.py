#!/usr/bin/env python3
"""Write the documents of config/tasks/: three small tasks over held-out stories of the embedded corpus.

tiny_generate: complete a sentence whose ending is certain, so that there is one right answer.
tiny_choice: choose that ending among four; the wrong ones have another name, place, number or object.
tiny_rolling: whole stories, for their likelihood.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path

from dlmbench.tiny import next_word, story_of
from dlmbench.tiny.vocabulary import CLASS_OF_WORD, WORD_CLASSES

CONTEXT_WORDS, STORY_WORDS = 40, 96
CHANGEABLE = {"name", "role", "place", "colour", "object", "number", "animal"}
# Far from the stories of the demo and the tests, which start at 0.
FIRST_STORY = 500_000


def endings(story: int) -> Iterator[tuple[list[str], list[str]]]:
    """(words before, certain words) for sentences of held-out stories that end with two or more certain words.

    A word is certain if it is the only possible one. At most one sentence per story, without its full stop.
    """
    while True:
        words = story_of("heldout", story, STORY_WORDS)
        story += 1
        for stop in (i for i, word in enumerate(words) if word == "." and i > CONTEXT_WORDS):
            start = stop
            while len(next_word(words[: start - 1])) == 1:
                start -= 1
            if stop - start >= 2:
                yield words[:start], words[start:stop]
                break


def choice(count: int) -> Iterator[dict[str, object]]:
    """Documents {context, choices, answer}: the wrong choices have another word of the same class in one place."""
    rng = random.Random("tiny_choice")
    for context, answer in endings(FIRST_STORY):
        places = [i for i, word in enumerate(answer) if CLASS_OF_WORD[word] in CHANGEABLE]
        if not places:
            continue
        place = rng.choice(places)
        # Words from the story come first: they mislead a model that only remembers what was mentioned.
        others = [w for w in WORD_CLASSES[CLASS_OF_WORD[answer[place]]] if w != answer[place]]
        rng.shuffle(others)
        words = [answer[place], *sorted(others, key=lambda w: w not in context)[:3]]
        rng.shuffle(words)
        choices = [" ".join([*answer[:place], word, *answer[place + 1 :]]) for word in words]
        yield {"context": " ".join(context), "choices": choices, "answer": words.index(answer[place])}
        count -= 1
        if not count:
            return


def rolling(count: int) -> Iterator[dict[str, object]]:
    """Documents {text}."""
    first = FIRST_STORY + 10_000
    return ({"text": " ".join(story_of("heldout", first + i, STORY_WORDS))} for i in range(count))


def generate(count: int) -> Iterator[dict[str, object]]:
    """Documents {context, answer}."""
    for context, answer in itertools.islice(endings(FIRST_STORY + 20_000), count):
        yield {"context": " ".join(context), "answer": " ".join(answer)}


def main() -> None:
    """Write one JSONL file per task."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parents[1] / "config" / "tasks")
    parser.add_argument("--count", type=int, default=40, help="documents per task")
    options = parser.parse_args()
    for make in (choice, rolling, generate):
        path = options.folder / f"tiny_{make.__name__}.jsonl"
        path.write_text("".join(json.dumps(document) + "\n" for document in make(options.count)), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
