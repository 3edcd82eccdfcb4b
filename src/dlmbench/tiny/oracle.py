"""The oracle: exact log-probability of a tiny story, and its violations.

A generated text may contradict itself. The scorer then counts a violation, repairs it and continues, so that one
mistake counts once:
- a word of the right class but with wrong content (another name, another count) is replaced by the most probable word
  of its class that is possible there;
- any other word breaks the sentence: scoring resumes after the next full stop of the text.

The smoothed log-probability mixes the exact one with the uniform distribution over the tokenizer's tokens,
(1 - EPSILON) p + EPSILON / V, so it stays finite; words skipped after a break get 1 / V. For text with violations it
depends on EPSILON, which should be reported with it.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dlmbench.tiny.state import Constraint
from dlmbench.tiny.story import story_slots
from dlmbench.tiny.vocabulary import CLASS_OF_WORD, TOKENS
from dlmbench.tiny.world import Distribution

EPSILON = 1e-3
_UNIFORM = 1.0 / len(TOKENS)


@dataclass(frozen=True)
class TokenScore:
    """One scored word. `constraint` is None for a word skipped after a break: neither a slot nor a violation."""

    word: str
    constraint: Constraint | None
    probability: float  # exact, given the words before it (as repaired)
    entropy: float  # nats, of the exact distribution of this word
    violated: bool

    @property
    def log_prob(self) -> float:
        """Nats; minus infinity for an impossible word."""
        return math.log(self.probability) if self.probability > 0.0 else -math.inf

    @property
    def smoothed_log_prob(self) -> float:
        """Nats; finite."""
        if self.constraint is None:
            return math.log(_UNIFORM)
        return math.log((1.0 - EPSILON) * self.probability + EPSILON * _UNIFORM)


@dataclass(frozen=True)
class StoryScore:
    """Sums over the scored part of a story, in nats; sentences are those that end in the scored part."""

    tokens: tuple[TokenScore, ...]
    log_prob: float
    smoothed_log_prob: float
    path_entropy: float
    violations: dict[Constraint, int]
    sentences_total: int
    sentences_valid: int


def _repair(word: str, distribution: Distribution) -> str | None:
    """The most probable possible word of the same class as the impossible `word`, if there is one."""
    word_class = CLASS_OF_WORD.get(word)
    if word_class is None or word_class == "function word":
        return None
    candidates = [other for other in distribution if CLASS_OF_WORD[other] == word_class]
    return max(candidates, key=distribution.__getitem__, default=None)


def _entropy(distribution: Distribution) -> float:
    return -sum(p * math.log(p) for p in distribution.values())


def _score_words(words: Sequence[str]) -> list[TokenScore]:
    scores: list[TokenScore] = []
    slots = story_slots()
    constraint, distribution = next(slots)
    skipping = False
    for word in words:
        if skipping:
            scores.append(TokenScore(word, None, 0.0, 0.0, violated=False))
            skipping = word != "."
            continue
        probability = distribution.get(word, 0.0)
        scores.append(TokenScore(word, constraint, probability, _entropy(distribution), violated=probability == 0.0))
        read = word if probability > 0.0 else _repair(word, distribution)
        skipping = read is None and word != "."
        while read is None:  # a broken sentence is completed with the most probable words
            likeliest = max(distribution, key=distribution.__getitem__)
            if likeliest == ".":
                read = likeliest
            else:
                constraint, distribution = slots.send(likeliest)
        constraint, distribution = slots.send(read)
    return scores


def score_story(words: Sequence[str], start: int = 0) -> StoryScore:
    """Score `words[start:]` as a continuation of `words[:start]`, which is read in the same way but not counted.

    A word outside the vocabulary is a violation like any other. `words` may end within a sentence, which is then scored
    but not counted as a sentence.
    """
    scored = tuple(_score_words(words)[start:])
    violations = Counter(score.constraint for score in scored if score.constraint is not None and score.violated)
    sentences_total = sentences_valid = 0
    sentence_is_valid = True
    for score in scored:
        sentence_is_valid &= not score.violated
        if score.word == ".":
            sentences_total += 1
            sentences_valid += sentence_is_valid
            sentence_is_valid = True
    return StoryScore(
        tokens=scored,
        log_prob=-math.inf if violations else math.fsum(score.log_prob for score in scored),
        smoothed_log_prob=math.fsum(score.smoothed_log_prob for score in scored),
        path_entropy=math.fsum(score.entropy for score in scored),
        violations=violations,
        sentences_total=sentences_total,
        sentences_valid=sentences_valid,
    )


def next_word(prefix: Sequence[str]) -> Distribution:
    """The exact p(next word | prefix). Raises ValueError if no story starts with the prefix."""
    slots = story_slots()
    _, distribution = next(slots)
    for position, word in enumerate(prefix):
        if word not in distribution:
            raise ValueError(f"no story has {word!r} at position {position}")
        _, distribution = slots.send(word)
    return distribution
