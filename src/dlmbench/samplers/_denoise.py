"""The one loop of masked diffusion: blocks from left to right, forwards within a block, commits after each forward.

`reveal` decides what becomes final at the chosen positions: the model's own tokens when it generates, the reference's
when a likelihood is computed (the rule never knows which). No step waits for the device, except a rule without a
schedule, which must ask once a forward whether masks are left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dlmbench import registry
from dlmbench.errors import InvalidLogitsError
from dlmbench.samplers._canvas import Canvas
from dlmbench.samplers._choice import choose_tokens
from dlmbench.samplers._step import Decision, Step, quotas
from dlmbench.types import KnobValue, LanguageModel, PromptBatch, StepObserver

if TYPE_CHECKING:
    import torch

Reveal = Callable[[Step, Decision, slice], "torch.Tensor"]


@dataclass
class Loop:
    """One pass over the canvas. `healthy` turns False (on the device) when a chosen logit is not finite."""

    model: LanguageModel
    canvas: Canvas
    knobs: Mapping[str, KnobValue]
    seed: int
    prompts_B: torch.Tensor
    reveal: Reveal
    observer: StepObserver | None = None
    block_ends: list[int] = field(default_factory=list)
    healthy: torch.Tensor | None = None

    def __post_init__(self) -> None:
        self.rule: ModuleType = registry.load("samplers/commit", str(self.knobs["commit"]))
        self.reuse: ModuleType = registry.load("samplers/cache", str(self.knobs["cache"]))
        self.scale = float(self.knobs["cfg_scale"] or 0)
        # CFG's unconditional rows see blanks where the prompt and its padding were.
        self.unconditional = self.canvas.without_prompt() if self.scale > 0 else None

    def run(self) -> None:
        """Fill the whole canvas."""
        new_tokens = self.canvas.masked_BG.shape[1]
        block = int(self.knobs["block_length"] or new_tokens)
        steps = int(self.knobs.get("steps") or new_tokens) // (new_tokens // block)
        for first in range(0, new_tokens, block):
            self._block(slice(first, first + block), quotas(block, steps) if self.rule.SCHEDULED else None)
            self.block_ends.append(self.canvas.work.forwards)

    def _block(self, block: slice, schedule: list[int] | None) -> None:
        """One block. A schedule fixes the number of forwards; without one they go on until no mask is left."""
        cache = self.model.new_cache() if self.reuse.KEEPS else None
        at_least = 2 if self.reuse.KEEPS and self.knobs["published_loop"] else 1
        if schedule is not None and self.reuse.KEEPS:
            # With a cache the loop ends when the block is full: steps whose quota is 0 are not run.
            schedule = [q for q in schedule if q] + [0] * (at_least - sum(q > 0 for q in schedule))
        done_rows, forwards, left = 0, 0, block.stop - block.start
        while forwards < len(schedule) if schedule is not None else (left or forwards < at_least):
            quota = None if schedule is None else schedule[forwards]
            self._forward(block, cache, forwards, quota, done_rows)
            forwards += 1
            if schedule is None:
                open_rows = self.canvas.masked_BG[:, block].any(1).tolist()
                left, done_rows = any(open_rows), open_rows.count(False)
            else:
                done_rows = len(self.prompts_B) if sum(schedule[:forwards]) == block.stop - block.start else 0

    def _forward(self, block: slice, cache: Any, number: int, quota: int | None, done_rows: int) -> None:
        import torch

        canvas, prompt = self.canvas, self.canvas.prompt_tokens
        lo, hi = prompt + block.start, prompt + block.stop
        start, stop = (0, canvas.length) if number == 0 else self.reuse.span(lo, hi, canvas.length)
        tokens_BQ, attend_BN = canvas.tokens_BN[:, start:stop], canvas.attend_BN
        if self.unconditional is not None:
            self.unconditional[:, prompt:] = canvas.new_BG
            tokens_BQ = torch.cat([tokens_BQ, self.unconditional])
            attend_BN = None if attend_BN is None else torch.cat([attend_BN, attend_BN])
        hidden_BQD = self.model.forward(tokens_BQ, attend_BN, cache, start)
        logits_BbV = self.model.logits(hidden_BQD, lo - start, hi - start)
        if self.unconditional is not None:
            given, blind = logits_BbV.chunk(2)
            logits_BbV = blind + (self.scale + 1) * (given - blind)

        work, rows = canvas.work, tokens_BQ.shape[0]
        step = self._step(logits_BbV, block, quota, number)
        decision = self.rule.decide(step, self.knobs)
        canvas.new_BG[:, block] = torch.where(
            decision.commit_Bb, self.reveal(step, decision, block), canvas.new_BG[:, block]
        )
        canvas.masked_BG[:, block] &= ~decision.commit_Bb
        work.forwards += 1
        work.positions += rows * (stop - start)
        work.attention_pairs += rows * (stop - start) * canvas.length
        work.wasted_positions += rows // len(self.prompts_B) * done_rows * (stop - start)
        if self.observer is not None:
            self.observer(work.forwards)

    def _step(self, logits_BbV: torch.Tensor, block: slice, quota: int | None, number: int) -> Step:
        """Choose a token for each position. The mask is never chosen, but counts in the confidence, as published."""
        import torch

        architecture, infinite = self.model.architecture, float("-inf")
        positions_b = torch.arange(block.start, block.stop, device=logits_BbV.device)
        if self.knobs["logits_eos_inf"] and architecture.eos_id is not None:
            logits_BbV[..., architecture.eos_id] = infinite
        mask_logit_Bb = logits_BbV[..., self.canvas.mask_id].clone()
        logits_BbV[..., self.canvas.mask_id] = infinite
        temperature = float(self.knobs["temperature"] or 0)
        chosen_Bb = choose_tokens(logits_BbV, temperature, self.seed, self.prompts_B, number, positions_b)
        logits_BbV[..., self.canvas.mask_id] = mask_logit_Bb
        finite = logits_BbV.gather(-1, chosen_Bb[..., None]).isfinite().all()
        self.healthy = finite if self.healthy is None else self.healthy & finite
        ends = (architecture.eos_id, architecture.eot_id) if self.knobs["confidence_eos_eot_inf"] else ()
        masked_Bb = self.canvas.masked_BG[:, block]
        return Step(logits_BbV, chosen_Bb, masked_Bb, quota, self.seed, number, self.prompts_B, positions_b, ends)


def denoise(
    model: LanguageModel,
    canvas: Canvas,
    batch: PromptBatch,
    knobs: Mapping[str, KnobValue],
    seed: int,
    reveal: Reveal,
    observer: StepObserver | None = None,
) -> Loop:
    """Run the loop without gradients.

    Raises:
        InvalidLogitsError: the model gave NaN or infinity.
    """
    import torch

    with torch.inference_mode():
        prompts_B = torch.tensor(batch.indices, device=model.device)
        loop = Loop(model, canvas, knobs, seed, prompts_B, reveal, observer)
        loop.run()
        if loop.healthy is not None and not bool(loop.healthy):
            raise InvalidLogitsError("the model gave NaN or infinite logits")
    return loop
