"""LLaDA's denoising loop: canvas, forward, score, commit and work accounting, for generation and likelihoods alike.

The canvas is [prompt | G masks], filled block by block from left to right. A step runs one forward, scores the block's
positions (a token and a confidence each) and commits those that the commit rule selects. In generation they take the
model's tokens, in a likelihood the reference's; the rule cannot tell which.

A step only updates device tensors in place and never synchronizes with the host, so an engine can capture it as a CUDA
graph. A rule without a schedule reads back once per forward whether masks are left; nothing else does.

Shapes: B rows, P prompt (left-padded to the longest), G new tokens, N = P + G, Q positions of a forward, b positions
of the current block, w positions of one chunk of its logits, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING

from dlmbench import registry
from dlmbench.errors import BenchError, InvalidLogitsError
from dlmbench.sampling.rng import choose_tokens, uniform
from dlmbench.types import GraphRunner, KnobValue, LanguageModel, OnStep, PromptBatch

if TYPE_CHECKING:
    import torch


# ---------------------------------------------------------------- canvas


def padded(batch: PromptBatch, model: LanguageModel) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(tokens_BP padded on the left, attention_mask_BP: 1 real, 0 padding; None when nothing is padded).

    Padding on the left makes the new tokens of all rows start together.

    Raises:
        BenchError: a prompt is empty, or has an id outside the vocabulary or equal to the mask.
    """
    import torch

    architecture = model.architecture
    pad = architecture.pad_id if architecture.pad_id is not None else architecture.eos_id or 0
    for prompt in batch.prompts:
        if not prompt.ids:
            raise BenchError(f"prompt {prompt.index + 1} is empty", "Give it at least one token")
        for token in prompt.ids:
            if not 0 <= token < architecture.vocab_size:
                raise BenchError(
                    f"prompt {prompt.index + 1} has id {token}, outside the vocabulary of {architecture.vocab_size}",
                    "Check that the ids were made with this model's tokenizer",
                )
            if token == architecture.mask_id:
                raise BenchError(
                    f"prompt {prompt.index + 1} contains the mask id {token}",
                    "A prompt is text; masks stand for tokens still to be generated",
                )
    rows = [torch.tensor(prompt.ids) for prompt in batch.prompts]
    pad_left = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True, padding_side="left")
    tokens_BP = pad_left(rows, padding_value=pad).to(model.device)
    if all(len(row) == tokens_BP.shape[1] for row in rows):
        return tokens_BP, None
    return tokens_BP, pad_left([torch.ones_like(row) for row in rows]).to(model.device)


class Canvas:
    """The device tensors of one generation.

    masked_BG: positions not committed yet. prompt_index_B: each row's index in the prompt set. step_in_block and
    forward_count: forwards done in the block and in all, one element each. all_finite: whether every chosen logit was.
    Present only when in `needs`: attention_mask_BN (padding), cache (kv_cache), uncond_tokens_BN (guidance, which is
    classifier-free), reference_BG and log_prob_BG (likelihood), commit_step_BG and confidence_BG (trace).
    """

    def __init__(self, model: LanguageModel, shape: tuple[int, int, int], needs: frozenset[str]) -> None:
        """Allocate for `shape` (B, P, G); `reset` fills it.

        Raises:
            BenchError: the model has no mask token.
        """
        import torch

        mask_id, (rows, self.prompt_tokens, new_tokens) = model.architecture.mask_id, shape
        if mask_id is None:
            raise BenchError(
                f"a model of family '{model.architecture.family}' has no mask token, so diffusion cannot run it",
                "Use the autoregressive sampler, or a masked-diffusion checkpoint",
            )

        def zeros(*size: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
            return torch.zeros(size, dtype=dtype, device=model.device)

        self.mask_id, length = mask_id, self.prompt_tokens + new_tokens
        self.tokens_BN = zeros(rows, length)
        self.masked_BG = zeros(rows, new_tokens, dtype=torch.bool)
        self.prompt_index_B = zeros(rows)
        self.step_in_block, self.forward_count = zeros(1), zeros(1)
        self.all_finite = zeros(dtype=torch.bool)
        self.attention_mask_BN = zeros(rows, length) if "padding" in needs else None
        self.cache = model.new_cache(rows, length) if "kv_cache" in needs else None
        self.uncond_tokens_BN = zeros(rows, length) if "guidance" in needs else None
        is_scored, is_traced = "likelihood" in needs, "trace" in needs
        self.reference_BG = zeros(rows, new_tokens) if is_scored else None
        self.log_prob_BG = zeros(rows, new_tokens, dtype=torch.float64) if is_scored else None
        self.commit_step_BG = zeros(rows, new_tokens) if is_traced else None
        self.confidence_BG = zeros(rows, new_tokens, dtype=torch.float64) if is_traced else None

    def reset(self, tokens_BP: torch.Tensor, attention_mask_BP: torch.Tensor | None, batch: PromptBatch) -> None:
        """Set every row to [prompt | G masks]; the padding mask is extended by ones over G."""
        import torch

        self.tokens_BN[:, : self.prompt_tokens] = tokens_BP
        self.new_BG.fill_(self.mask_id)
        self.masked_BG.fill_(True)
        self.all_finite.fill_(True)
        if self.attention_mask_BN is not None and attention_mask_BP is not None:
            self.attention_mask_BN.fill_(1)
            self.attention_mask_BN[:, : self.prompt_tokens] = attention_mask_BP
        if self.uncond_tokens_BN is not None:
            # As in the official code, the unconditional rows have masks over the prompt and over its padding.
            self.uncond_tokens_BN.fill_(self.mask_id)
        if self.reference_BG is not None:
            self.reference_BG.copy_(torch.tensor([p.reference_ids for p in batch.prompts]))
        self.prompt_index_B.copy_(torch.tensor(batch.indices))
        for counter in (self.forward_count, self.log_prob_BG, self.commit_step_BG, self.confidence_BG):
            if counter is not None:
                counter.zero_()

    @property
    def length(self) -> int:
        """N, prompt and new tokens together."""
        return self.tokens_BN.shape[1]

    @property
    def new_BG(self) -> torch.Tensor:
        """View of the generated span."""
        return self.tokens_BN[:, self.prompt_tokens :]


# ---------------------------------------------------------------- score: from logits to a token and a confidence


@dataclass
class LogitsChunk:
    """Logits of some of the block's positions, as a commit rule's `confidence` sees them.

    A block's logits may be too large to hold at once, so they are scored chunk by chunk. chosen_Bw: the token that
    each position would take. step_in_block: counted from 0. suppressed: tokens whose probability counts as 0.
    """

    logits_BwV: torch.Tensor
    chosen_Bw: torch.Tensor
    seed: int
    step_in_block: torch.Tensor
    prompt_index_B: torch.Tensor
    positions_w: torch.Tensor
    suppressed: tuple[int, ...] = ()

    def probability(self, dtype: str) -> torch.Tensor:
        """Un-tempered softmax probability_Bw of the chosen token, computed in `dtype` (model | float32 | float64)."""
        import torch

        logits_BwV, to = self.logits_BwV, self.logits_BwV.dtype if dtype == "model" else getattr(torch, dtype)
        for token in self.suppressed:
            columns_V = torch.arange(logits_BwV.shape[-1], device=logits_BwV.device)
            logits_BwV = logits_BwV.masked_fill(columns_V == token, float("-inf"))
        return logits_BwV.softmax(-1, dtype=to).gather(-1, self.chosen_Bw[..., None])[..., 0]

    def draw(self) -> torch.Tensor:
        """u_Bw in (0, 1), a function of seed, prompt, step and position."""
        return uniform(self.seed, self.prompt_index_B, self.step_in_block, self.positions_w, "order")


def chosen_probability(chunk: LogitsChunk, knobs: Mapping[str, KnobValue]) -> torch.Tensor:
    """The `confidence` of most commit rules: the chosen token's probability_Bw, in the knobs' `confidence_dtype`."""
    return chunk.probability(str(knobs["confidence_dtype"]))


def _score_chunk(
    logits_BwV: torch.Tensor,
    prompt_index_B: torch.Tensor,
    step_in_block: torch.Tensor,
    positions_w: torch.Tensor,
    reference_Bw: torch.Tensor | None,
    *,
    mask_id: int,
    forbidden: int | None,
    suppressed: tuple[int, ...],
    cfg_scale: float,
    temperature: float,
    seed: int,
    confidence: Callable[[LogitsChunk, Mapping[str, KnobValue]], torch.Tensor],
    knobs: Mapping[str, KnobValue],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """(chosen_Bw, confidence_Bw, all finite, log_prob_Bw of the reference); engines may compile it.

    The mask is never chosen, but stays in the confidence's softmax, as published. In a likelihood it is left out of
    the softmax too, for no text contains it.
    """
    import torch

    columns_V = torch.arange(logits_BwV.shape[-1], device=logits_BwV.device)
    if cfg_scale > 0:
        cond_BwV, uncond_BwV = logits_BwV.chunk(2)
        logits_BwV = uncond_BwV + (cfg_scale + 1) * (cond_BwV - uncond_BwV)
    if forbidden is not None:
        logits_BwV = logits_BwV.masked_fill(columns_V == forbidden, float("-inf"))
    chosen_Bw = choose_tokens(logits_BwV, temperature, seed, prompt_index_B, step_in_block, positions_w, never=mask_id)
    finite = logits_BwV.gather(-1, chosen_Bw[..., None]).isfinite().all()
    chunk = LogitsChunk(logits_BwV, chosen_Bw, seed, step_in_block, prompt_index_B, positions_w, suppressed)
    confidence_Bw = confidence(chunk, knobs)
    log_prob_Bw = None
    if reference_Bw is not None:
        allowed_BwV = logits_BwV.float().masked_fill(columns_V == mask_id, float("-inf"))
        log_prob_Bw = allowed_BwV.log_softmax(-1).gather(-1, reference_Bw[..., None])[..., 0]
    return chosen_Bw, confidence_Bw, finite, log_prob_Bw


# ---------------------------------------------------------------- commit: which positions become final


def quotas(masks: int, steps: int) -> list[int]:
    """How many of `masks` positions each of `steps` steps commits: equal shares, the first steps take the remainder."""
    base, extra = divmod(masks, steps)
    return [base + (i < extra) for i in range(steps)]


@dataclass
class BlockScores:
    """One forward's confidence_Bb over the block, as a commit rule's `decide` sees it.

    masked_Bb: positions that can still be committed. quota: how many the schedule asks for; None without a schedule.
    """

    confidence_Bb: torch.Tensor
    masked_Bb: torch.Tensor
    quota: int | None = None

    def ranked(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Confidence_Bb in descending order (committed positions last, at -inf) and rank_Bb, 0 for the best.

        Ties go to the leftmost. A rank is the number of better positions: one small kernel of b x b comparisons is
        faster than a sort, which takes several.
        """
        import torch

        open_Bb = self.confidence_Bb.masked_fill(~self.masked_Bb, float("-inf"))
        positions_b = torch.arange(open_Bb.shape[-1], device=open_Bb.device)
        other_B1b, own_Bb1 = open_Bb[:, None, :], open_Bb[:, :, None]
        is_left_bb = positions_b < positions_b[:, None]
        rank_Bb = ((other_B1b > own_Bb1) | ((other_B1b == own_Bb1) & is_left_bb)).sum(-1)
        return torch.zeros_like(open_Bb).scatter(-1, rank_Bb, open_Bb), rank_Bb

    def commit_best(self, counts: torch.Tensor | int) -> torch.Tensor:
        """commit_Bb of the most confident masked positions: `counts` of them per row, one number or one per row."""
        _, rank_Bb = self.ranked()
        limit = counts if isinstance(counts, int) else counts[:, None]
        return (rank_Bb < limit) & self.masked_Bb


def _decide(
    confidence_Bb: torch.Tensor,
    masked_Bb: torch.Tensor,
    quota: int | None,
    decide: Callable[[BlockScores, Mapping[str, KnobValue]], torch.Tensor],
    knobs: Mapping[str, KnobValue],
) -> torch.Tensor:
    """A rule's commit_Bb, as a function of tensors that engines may compile."""
    return decide(BlockScores(confidence_Bb, masked_Bb, quota), knobs)


# ---------------------------------------------------------------- loop


@dataclass
class Work:
    """Counts of one generation, as `Generation` reports them; block_ends: forwards done at the end of each block."""

    forwards: int = 0
    positions: int = 0
    attention_pairs: int = 0
    wasted_positions: int = 0
    block_ends: list[int] = field(default_factory=list)


class DenoisingLoop:
    """One generation: fills the runner's canvas and counts the work."""

    def __init__(
        self,
        model: LanguageModel,
        runner: GraphRunner,
        knobs: Mapping[str, KnobValue],
        seed: int,
        on_step: OnStep | None = None,
    ) -> None:
        self.model, self.runner, self.knobs, self.seed, self.on_step = model, runner, knobs, seed, on_step
        self.canvas: Canvas = runner.state
        self.rule: ModuleType = registry.load("commit", str(knobs["commit"]))
        self.cache: ModuleType = registry.load("cache", str(knobs["cache"]))
        self.min_forwards: int = self.cache.min_forwards(knobs) if hasattr(self.cache, "min_forwards") else 1
        self.score_chunk: Callable[..., tuple[torch.Tensor, ...]] = model.maybe_compile(_score_chunk)
        self.decide: Callable[..., torch.Tensor] = model.maybe_compile(_decide)
        self.work = Work()

    def run(self) -> None:
        """Fill the whole canvas."""
        new_tokens = self.canvas.masked_BG.shape[1]
        block = int(self.knobs["block_length"] or new_tokens)
        steps = int(self.knobs.get("steps") or new_tokens) // (new_tokens // block)
        for first in range(0, new_tokens, block):
            self.denoise_block(slice(first, first + block), quotas(block, steps) if self.rule.SCHEDULED else None)
            self.work.block_ends.append(self.work.forwards)

    def denoise_block(self, block: slice, schedule: list[int] | None) -> None:
        """Run a schedule's forwards, or without one as many as it takes until no mask is left."""
        canvas, length = self.canvas, block.stop - block.start
        if schedule is not None and self.cache.USES_KV_CACHE:
            # As published, with a cache the loop ends when the block is full: steps with a quota of 0 are not run.
            schedule = [q for q in schedule if q]
            schedule += [0] * (self.min_forwards - len(schedule))
        canvas.step_in_block.zero_()
        first, last = canvas.prompt_tokens + block.start, canvas.prompt_tokens + block.stop
        done_rows, forwards, masks_left = 0, 0, True
        while forwards < len(schedule) if schedule is not None else (masks_left or forwards < self.min_forwards):
            span = (0, canvas.length) if forwards == 0 else self.cache.span(first, last, canvas.length)
            quota = None if schedule is None else schedule[forwards]
            self.runner.run((first, span, quota), lambda span=span, quota=quota: self._step(block, span, quota))  # type: ignore[misc]
            forwards += 1
            self._count(span, done_rows)
            if schedule is None:
                open_rows = canvas.masked_BG[:, block].any(1).tolist()
                masks_left, done_rows = any(open_rows), open_rows.count(False)
            else:
                done_rows = len(canvas.prompt_index_B) if sum(schedule[:forwards]) == length else 0

    def _step(self, block: slice, span: tuple[int, int], quota: int | None) -> None:
        """Forward over `span` of the canvas, score and commit the block; runs on the device only."""
        import torch

        canvas, (start, stop) = self.canvas, span
        tokens_BQ, attention_mask_BN = canvas.tokens_BN[:, start:stop], canvas.attention_mask_BN
        if canvas.uncond_tokens_BN is not None:
            canvas.uncond_tokens_BN[:, canvas.prompt_tokens :] = canvas.new_BG
            tokens_BQ = torch.cat([tokens_BQ, canvas.uncond_tokens_BN])
            if attention_mask_BN is not None:
                attention_mask_BN = torch.cat([attention_mask_BN, attention_mask_BN])
        hidden_BQD = self.model.forward(tokens_BQ, attention_mask_BN, canvas.cache, start)
        chosen_Bb, confidence_Bb, log_prob_Bb = self._score_block(hidden_BQD, block, canvas.prompt_tokens - start)
        commit_Bb = self.decide(confidence_Bb, canvas.masked_BG[:, block], quota, self.rule.decide, self.knobs)
        final_Bb = chosen_Bb if canvas.reference_BG is None else canvas.reference_BG[:, block]
        canvas.new_BG[:, block] = torch.where(commit_Bb, final_Bb, canvas.new_BG[:, block])
        canvas.masked_BG[:, block] &= ~commit_Bb
        canvas.step_in_block += 1
        canvas.forward_count += 1
        if canvas.log_prob_BG is not None and log_prob_Bb is not None:
            canvas.log_prob_BG[:, block] += log_prob_Bb.double().masked_fill(~commit_Bb, 0.0)
        if canvas.commit_step_BG is not None and canvas.confidence_BG is not None:
            canvas.commit_step_BG[:, block] += commit_Bb * canvas.forward_count
            canvas.confidence_BG[:, block] += confidence_Bb.double().masked_fill(~commit_Bb, 0.0)

    def _score_block(
        self, hidden_BQD: torch.Tensor, block: slice, offset: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """(chosen_Bb, confidence_Bb, log_prob_Bb); position i of the generated span is hidden state i + offset."""
        import torch

        canvas, architecture, knobs = self.canvas, self.model.architecture, self.knobs
        suppressed = (architecture.eos_id, architecture.eot_id) if knobs["confidence_eos_eot_inf"] else ()
        parts, first = [], block.start
        for logits_BwV in self.model.logits_chunks(hidden_BQD, block.start + offset, block.stop + offset):
            last = first + logits_BwV.shape[1]
            scores = self.score_chunk(
                logits_BwV,
                canvas.prompt_index_B,
                canvas.step_in_block,
                torch.arange(first, last, device=logits_BwV.device),
                None if canvas.reference_BG is None else canvas.reference_BG[:, first:last],
                mask_id=canvas.mask_id,
                forbidden=architecture.eos_id if knobs["logits_eos_inf"] else None,
                suppressed=tuple(token for token in suppressed if token is not None),
                cfg_scale=float(knobs["cfg_scale"] or 0),
                temperature=float(knobs["temperature"] or 0),
                seed=self.seed,
                confidence=self.rule.confidence,
                knobs=knobs,
            )
            parts.append(scores)
            first = last
        chosen, confidence, finite, log_prob = zip(*parts, strict=True)
        canvas.all_finite &= torch.stack(finite).all()
        log_prob_Bb = None if canvas.reference_BG is None else torch.cat(log_prob, 1)
        return torch.cat(chosen, 1), torch.cat(confidence, 1), log_prob_Bb

    def _count(self, span: tuple[int, int], done_rows: int) -> None:
        """Add one forward over `span`; rows whose block was already full before it are waste."""
        work, canvas, positions = self.work, self.canvas, span[1] - span[0]
        copies = 1 if canvas.uncond_tokens_BN is None else 2
        rows = copies * len(canvas.prompt_index_B)
        work.forwards += 1
        work.positions += rows * positions
        work.attention_pairs += rows * positions * canvas.length
        work.wasted_positions += copies * done_rows * positions
        if self.on_step is not None:
            self.on_step(work.forwards)


def denoise(
    model: LanguageModel,
    batch: PromptBatch,
    new_tokens: int,
    knobs: Mapping[str, KnobValue],
    seed: int,
    *,
    on_step: OnStep | None = None,
    likelihood: bool = False,
    trace: bool = False,
) -> tuple[Canvas, Work]:
    """Run the loop without gradients. The engine may reuse the canvas: read it before the next generation.

    Raises:
        BenchError: the model has no mask token, or a prompt cannot be run (see `padded`).
        InvalidLogitsError: the model returned NaN or infinity.
    """
    import torch

    with torch.inference_mode():
        tokens_BP, attention_mask_BP = padded(batch, model)
        shape = (*tokens_BP.shape, new_tokens)
        is_needed = {
            "padding": attention_mask_BP is not None,
            "kv_cache": registry.load("cache", str(knobs["cache"])).USES_KV_CACHE,
            "guidance": float(knobs["cfg_scale"] or 0) > 0,
            "likelihood": likelihood,
            "trace": trace,
        }
        needs = frozenset(name for name, needed in is_needed.items() if needed)
        key = (shape, seed, needs, *sorted(knobs.items()))
        runner = model.graph_runner(key, lambda: Canvas(model, shape, needs))
        runner.state.reset(tokens_BP, attention_mask_BP, batch)
        loop = DenoisingLoop(model, runner, knobs, seed, on_step)
        loop.run()
        if not bool(loop.canvas.all_finite):
            raise InvalidLogitsError("the model returned NaN or infinite logits")
    return loop.canvas, loop.work
