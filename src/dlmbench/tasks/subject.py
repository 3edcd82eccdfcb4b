"""A model as tasks see it: log-likelihoods of continuations and generated ids, by the paths that metrics and runs use.

Requests come in every length, so what a sampler leaves open (block length, steps) is settled anew for each.
Autoregressive likelihoods are exact. A diffusion model's are either the ELBO, LLaDA's own way, which has no steps, or
the likelihood of the sampler at its K, which is what a step sweep needs.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from dlmbench import registry
from dlmbench.bench.generate import settled
from dlmbench.errors import BenchError
from dlmbench.metrics import elbo
from dlmbench.models import checkpoint
from dlmbench.models.assets import resolve_model
from dlmbench.models.tokenizer import Codec
from dlmbench.types import Cell, Knobs, KnobValue, LanguageModel, ModelSpec, Prompt, PromptBatch, Texts

LikelihoodKind = Literal["elbo", "sampler"]
LIKELIHOODS: tuple[LikelihoodKind, ...] = ("elbo", "sampler")
# Masked copies of a text in one forward of the ELBO, at least: they also share out the counts evenly.
ELBO_ROWS = 15

Ids = tuple[int, ...]
Done = Callable[[int], None]


@dataclass(frozen=True)
class Setup:
    """Which model answers, and how.

    sampler, precision: None leaves the choice to the family and the device. knobs: as given; what is not there is
    settled for each length. max_length: tokens of a request at most; None takes the checkpoint's positions.
    new_tokens: the canvas of a generation; None takes the task's own limit. rows: requests in one forward.
    check_greedy: whether to find out which continuations greedy decoding would have written.
    """

    model: ModelSpec
    sampler: str | None = None
    knobs: Knobs = ()
    engine: str = "hf"
    precision: str | None = None
    attention: str = "auto"
    seed: int = 0
    likelihood: LikelihoodKind = "elbo"
    draws: int = elbo.ElboSettings().draws
    max_length: int | None = None
    new_tokens: int | None = None
    rows: int = 1
    check_greedy: bool = True


@dataclass(frozen=True)
class Pair:
    """A context and the continuation whose likelihood is asked for, in ids."""

    context: Ids
    continuation: Ids


class Subject:
    """A loaded model with the way it is asked. Two subjects may share one loaded model."""

    def __init__(self, setup: Setup, model: LanguageModel, codec: Codec) -> None:
        """Setup with sampler and precision filled in; see `load`."""
        assert setup.sampler is not None
        self.setup, self.model, self.codec = setup, model, codec
        self.sampler = registry.load("samplers", setup.sampler)
        settled(setup.sampler, _without_lengths(setup.knobs), setup.engine, 1)

    @classmethod
    def load(cls, setup: Setup, device: str | None = None) -> Subject:
        """Find the checkpoint, check the choices against it, load it.

        Raises:
            BenchError: no such model, no tokenizer, or a sampler, engine or knob that does not fit.
        """
        import torch

        folder = resolve_model(setup.model)
        assert folder is not None, "random weights do not answer tasks"
        setup = complete(setup, folder, device := device or ("cuda" if torch.cuda.is_available() else "cpu"))
        assert setup.sampler is not None
        codec = Codec(folder)
        engine = registry.load("engines", setup.engine)
        model = engine.load(
            setup.model, folder, precision=setup.precision, attention=setup.attention, device=device, seed=setup.seed
        )
        return cls(setup, model, codec)

    def asked(self, setup: Setup) -> Subject:
        """The same loaded model, asked in another way."""
        assert (setup.model, setup.engine, setup.attention) == (
            self.setup.model,
            self.setup.engine,
            self.setup.attention,
        )
        return Subject(
            replace(setup, sampler=setup.sampler or self.setup.sampler, precision=self.setup.precision),
            self.model,
            self.codec,
        )

    @property
    def max_length(self) -> int:
        """Tokens of context and continuation together, at most."""
        return self.setup.max_length or self.model.architecture.max_positions

    @property
    def is_diffusion(self) -> bool:
        """Whether the model is a masked diffusion model."""
        return bool(self.sampler.PARADIGM == "diffusion")

    def log_likelihoods(self, pairs: Sequence[Pair], done: Done) -> list[float]:
        """log p(continuation | context) of each pair in nats: exact, a bound (elbo), or the sampler's own.

        Raises:
            BenchError: block length and steps do not fit a continuation (sampler likelihood only).
        """
        if self.is_diffusion and self.setup.likelihood == "elbo":
            return self._bounds(pairs, done)
        found = [0.0] * len(pairs)
        for length in sorted({len(p.continuation) for p in pairs}):
            prompts = tuple(
                Prompt(index, pair.context, reference_ids=pair.continuation)
                for index, pair in enumerate(pairs)
                if len(pair.continuation) == length
            )
            texts = self._texts(prompts, self._knobs(length, is_text=True), length)
            for score in registry.load("metrics", "likelihood").score(texts):
                found[score.prompt_index] = -score.total
                done(1)
        return found

    def _bounds(self, pairs: Sequence[Pair], done: Done) -> list[float]:
        found = []
        for pair in pairs:
            # Keyed by the context alone: the answers to one question meet the same masks where their lengths agree,
            # and neither the order of the requests nor their number changes a value.
            key = zlib.crc32(repr(pair.context).encode())
            prompt = Prompt(key, pair.context, reference_ids=pair.continuation)
            length = len(pair.continuation)
            # A row a token, or an odd number of rows: what `elbo.unbiased_rows` leaves as it is for every length.
            rows = min(length, max(ELBO_ROWS, (self.setup.rows - 1) | 1))
            texts = replace(self._texts((prompt,), {}, length), rows=rows)
            # A single token has but one mask: every draw would be the same.
            draws = 1 if length == 1 else self.setup.draws
            found.append(-elbo.estimate(texts, prompt, draws).nats)
            done(1)
        return found

    def greedy(self, pairs: Sequence[Pair], done: Done) -> list[bool]:
        """Whether the sampler at temperature 0, given the context, writes exactly the continuation."""
        found = [False] * len(pairs)
        for length in sorted({len(p.continuation) for p in pairs}):
            chosen = [i for i, p in enumerate(pairs) if len(p.continuation) == length]
            knobs = self._knobs(length, is_text=True) | {"temperature": 0.0}
            made = self._generate([pairs[i].context for i in chosen], length, knobs, done)
            for i, ids in zip(chosen, made, strict=True):
                found[i] = ids == pairs[i].continuation
        return found

    def generate(self, contexts: Sequence[Ids], new_tokens: int, temperature: float, done: Done) -> list[Ids]:
        """`new_tokens` new ids behind each context; a temperature among the knobs goes before the one given here.

        Raises:
            BenchError: block length and steps do not fit `new_tokens`.
        """
        knobs = self._knobs(new_tokens)
        if "temperature" not in dict(self.setup.knobs):
            knobs["temperature"] = temperature
        return self._generate(contexts, new_tokens, knobs, done)

    def _generate(self, contexts: Sequence[Ids], new_tokens: int, knobs: dict[str, KnobValue], done: Done) -> list[Ids]:
        prompts = [Prompt(index, context) for index, context in enumerate(contexts)]
        # Rows of like length together, so that little is padded; each row's draws are keyed by its own index.
        prompts.sort(key=lambda p: len(p.ids))
        found: dict[int, Ids] = {}
        for first in range(0, len(prompts), self.setup.rows):
            batch = PromptBatch(tuple(prompts[first : first + self.setup.rows]), "")
            made = self.sampler.generate(self.model, batch, new_tokens, knobs, self.setup.seed)
            found |= dict(zip(batch.indices, made.tokens_BG, strict=True))
            done(len(batch.prompts))
        return [found[i] for i in range(len(contexts))]

    def _knobs(self, new_tokens: int, *, is_text: bool = False) -> dict[str, KnobValue]:
        """Knobs for so many tokens; a given text that is shorter than a block is one block."""
        given = dict(self.setup.knobs)
        block = given.get("block_length")
        if is_text and block is not None and int(block) > new_tokens:
            del given["block_length"]
        assert self.setup.sampler is not None
        try:
            knobs = settled(self.setup.sampler, given, self.setup.engine, new_tokens)
        except BenchError as error:
            if not is_text:
                hint = "Change steps, block_length or new_tokens so that they divide"
                raise BenchError(f"a canvas of {new_tokens} tokens: {error.message}", hint) from None
            hint = "Leave block_length out, or score with likelihood elbo"
            raise BenchError(f"a text of {new_tokens} tokens: {error.message}", hint) from None
        if knobs.get("steps") is not None:
            # Steps beyond one a token find nothing left to commit.
            knobs["steps"] = min(int(knobs["steps"] or 0), new_tokens)
        return knobs

    def _texts(self, prompts: tuple[Prompt, ...], knobs: dict[str, KnobValue], length: int) -> Texts:
        setup = self.setup
        assert setup.sampler is not None
        assert setup.precision is not None
        cell = Cell(
            model=setup.model,
            engine=setup.engine,
            sampler=setup.sampler,
            knobs=tuple(sorted(knobs.items())),
            batch_size=setup.rows,
            prompt_tokens=0,  # they differ, and nothing that scores looks at it
            new_tokens=length,
            precision=setup.precision,
            attention=setup.attention,
            seed=setup.seed,
            prompts="lm-eval",
        )
        return Texts(cell, prompts, model=self.model, rows=setup.rows)


def complete(setup: Setup, folder: Path, device: str) -> Setup:
    """The setup with family, sampler and precision filled in from the checkpoint and the device.

    Raises:
        BenchError: the sampler is of the other paradigm, or a choice is unknown.
    """
    found = checkpoint.inspect(folder, setup.model.family or None)
    family = checkpoint.family_module(found.family)
    sampler = setup.sampler or family.SAMPLER
    if registry.load("samplers", sampler).PARADIGM != family.PARADIGM:
        raise BenchError(f"sampler '{sampler}' cannot run a model of family '{found.family}'", f"use {family.SAMPLER}")
    registry.load("engines", setup.engine)
    precision = setup.precision or ("bfloat16" if device.startswith("cuda") else "float32")
    return replace(setup, model=replace(setup.model, family=found.family), sampler=sampler, precision=precision)


def _without_lengths(knobs: Knobs) -> dict[str, KnobValue]:
    """Knobs that can be judged before any length is known; a schedule is kept, to see whether the rule has one."""
    return {name: 1 if name in ("steps", "block_length") else value for name, value in knobs}
