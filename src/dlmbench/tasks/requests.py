"""What a worker does for lm-eval: log-likelihoods of continuations, greedy continuations, and generations.

Requests come in every length, so knobs that are left open (block length, steps) are resolved for each length.
Autoregressive likelihoods are exact. Those of a diffusion model are either the ELBO, as in LLaDA's own evaluation,
which has no steps, or the likelihood of the sampler at its K, for a step sweep.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from dlmbench import registry
from dlmbench.bench.generate import default_precision, resolve_knobs, sampler_for
from dlmbench.bench.worker import WorkerState
from dlmbench.errors import BenchError
from dlmbench.metrics import elbo
from dlmbench.models import FoundModel, LoadedModel
from dlmbench.sampling.generator import generator_for
from dlmbench.tasks.records import TaskModelArgs
from dlmbench.types import Cell, KnobValue, Prompt, PromptBatch, Texts

# Masked copies of a text in one forward of the ELBO, at least; an odd number spreads the mask counts evenly.
_ELBO_ROWS = 15

Ids = tuple[int, ...]


class Pair(NamedTuple):
    """A context and its continuation, in ids."""

    context: Ids
    continuation: Ids


def complete_args(args: TaskModelArgs, found: FoundModel, device: str) -> TaskModelArgs:
    """Fill in family, sampler and precision, and check the choices against the checkpoint.

    Raises:
        BenchError: a sampler, engine or knob that does not fit.
    """
    registry.load("engines", args.engine)
    sampler = sampler_for(found.spec.family, args.sampler or None)
    # Checked before any length is known; `steps` stays, to see whether the commit rule has a schedule.
    knobs = {name: 1 if name in ("steps", "block_length") else value for name, value in args.knobs}
    resolve_knobs(sampler, knobs, args.engine, 1)
    precision = args.precision or default_precision(device)
    return replace(args, model=found.spec, sampler=sampler, precision=precision)


@dataclass(frozen=True)
class LogLikelihoods:
    """Log-likelihoods of continuations in nats."""

    args: TaskModelArgs
    pairs: tuple[Pair, ...]

    def run(self, state: WorkerState) -> Iterator[tuple[int, float]]:
        """(index of the pair, nats) of each pair."""
        args, model = self.args, load_model(self.args, state)
        is_diffusion = registry.load("samplers", args.sampler).PARADIGM == "diffusion"
        if is_diffusion and args.likelihood == "elbo":
            yield from self._bounds(model)
            return
        for length, indices in _by_length(self.pairs).items():
            prompts = tuple(Prompt(i, self.pairs[i].context, reference_ids=self.pairs[i].continuation) for i in indices)
            cell = _cell(args, _knobs(args, length, is_text=True), length)
            texts = Texts(cell, prompts, model=model.language_model, rows=args.rows)
            for score in registry.load("metrics", "likelihood").score(texts):
                yield score.prompt_index, -score.total

    def _bounds(self, model: LoadedModel) -> Iterator[tuple[int, float]]:
        for index, pair in enumerate(self.pairs):
            # Draws are keyed by the context alone: the answers to one question meet the same masks where their lengths
            # agree, and neither the order of the requests nor their number changes a value.
            key = zlib.crc32(repr(pair.context).encode())
            prompt = Prompt(key, pair.context, reference_ids=pair.continuation)
            length = len(pair.continuation)
            # One row per token, or an odd number of rows: `elbo.unbiased_rows` keeps both for every length.
            rows = min(length, max(_ELBO_ROWS, (self.args.rows - 1) | 1))
            texts = Texts(_cell(self.args, {}, length), (prompt,), model=model.language_model, rows=rows)
            # A single token has only one mask: every draw would be the same.
            draws = 1 if length == 1 else self.args.draws
            assert draws is not None
            yield index, -elbo.estimate(texts, prompt, draws).nats


@dataclass(frozen=True)
class GreedyMatches:
    """Whether greedy decoding generates each continuation."""

    args: TaskModelArgs
    pairs: tuple[Pair, ...]

    def run(self, state: WorkerState) -> Iterator[tuple[int, bool]]:
        """(index of the pair, whether it matches) of each pair."""
        model = load_model(self.args, state)
        for length, indices in _by_length(self.pairs).items():
            knobs = _knobs(self.args, length, is_text=True) | {"temperature": 0.0}
            contexts = [self.pairs[i].context for i in indices]
            for place, ids in _generate(self.args, model, contexts, length, knobs):
                yield indices[place], ids == self.pairs[indices[place]].continuation


@dataclass(frozen=True)
class Generations:
    """New ids after each context."""

    args: TaskModelArgs
    contexts: tuple[Ids, ...]
    new_tokens: int
    temperature: float

    def run(self, state: WorkerState) -> Iterator[tuple[int, Ids]]:
        """(index of the context, new ids) of each context."""
        knobs = _knobs(self.args, self.new_tokens)
        if "temperature" not in dict(self.args.knobs):
            knobs["temperature"] = self.temperature
        yield from _generate(self.args, load_model(self.args, state), self.contexts, self.new_tokens, knobs)


def load_model(args: TaskModelArgs, state: WorkerState) -> LoadedModel:
    """The model in the process that answers."""
    return state.load(_cell(args, {}, 0))


def _by_length(pairs: Sequence[Pair]) -> dict[int, list[int]]:
    """Indices of the pairs by the length of their continuation, shortest first."""
    groups: dict[int, list[int]] = {}
    for index, pair in sorted(enumerate(pairs), key=lambda item: len(item[1].continuation)):
        groups.setdefault(len(pair.continuation), []).append(index)
    return groups


def _generate(
    args: TaskModelArgs, model: LoadedModel, contexts: Sequence[Ids], new_tokens: int, knobs: dict[str, KnobValue]
) -> Iterator[tuple[int, Ids]]:
    generator = generator_for(model, args.sampler)
    # Rows of similar length together, so that little is padded; each row's draws are keyed by its own index.
    prompts = sorted((Prompt(i, context) for i, context in enumerate(contexts)), key=lambda p: len(p.ids))
    for first in range(0, len(prompts), args.rows):
        batch = PromptBatch(tuple(prompts[first : first + args.rows]), "")
        # With on_step every engine checks its logits.
        generation = generator.generate(batch, new_tokens, knobs, args.seed, on_step=lambda _: None)
        yield from zip(batch.indices, generation.tokens_BG, strict=True)


def _knobs(args: TaskModelArgs, new_tokens: int, *, is_text: bool = False) -> dict[str, KnobValue]:
    """Knobs for this many tokens; a text to be scored that is shorter than a block is one block."""
    chosen = dict(args.knobs)
    block = chosen.get("block_length")
    if is_text and block is not None and int(block) > new_tokens:
        del chosen["block_length"]
    try:
        knobs = resolve_knobs(args.sampler, chosen, args.engine, new_tokens)
    except BenchError as error:
        what, hint = "canvas", error.hint
        if is_text:
            what, hint = "text", f"{error.hint}, or score with likelihood elbo"
        raise BenchError(f"a {what} of {new_tokens} tokens: {error.message}", hint) from None
    if knobs.get("steps") is not None:
        # Steps beyond one per token find nothing left to commit.
        knobs["steps"] = min(int(knobs["steps"] or 0), new_tokens)
    return knobs


def _cell(args: TaskModelArgs, knobs: dict[str, KnobValue], length: int) -> Cell:
    """These arguments as a cell; its prompts differ in length."""
    return Cell(
        model=args.model,
        engine=args.engine,
        sampler=args.sampler,
        knobs=tuple(sorted(knobs.items())),
        batch_size=args.rows,
        prompt_tokens=0,
        new_tokens=length,
        precision=args.precision,
        attention=args.attention,
        seed=args.seed,
        prompts="lm-eval",
    )
