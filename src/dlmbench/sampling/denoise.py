"""The one loop of masked diffusion: blocks from left to right, forwards within a block, commits after each forward.

What becomes final at the committed positions is the model's own tokens when it generates and the reference's when a
likelihood is computed; the rule never knows which. A step is a function of tensors in place, without any wait for the
device, so that an engine may record it; only a rule without a schedule asks, once a forward, whether masks are left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType

from dlmbench import registry
from dlmbench.errors import InvalidLogitsError
from dlmbench.sampling.canvas import Canvas, Work
from dlmbench.sampling.padding import padded
from dlmbench.sampling.reading import Reader
from dlmbench.sampling.step import decided_by, quotas
from dlmbench.types import KnobValue, LanguageModel, PromptBatch, StepObserver, Workspace


@dataclass
class Loop:
    """One pass over the canvas."""

    model: LanguageModel
    workspace: Workspace
    knobs: Mapping[str, KnobValue]
    seed: int
    observer: StepObserver | None = None
    work: Work = field(default_factory=Work)

    def __post_init__(self) -> None:
        self.canvas: Canvas = self.workspace.state
        self.rule: ModuleType = registry.load("commit", str(self.knobs["commit"]))
        self.reuse: ModuleType = registry.load("cache", str(self.knobs["cache"]))
        self.decide = self.model.fused(decided_by)
        self.reader = Reader(self.model, self.rule, self.knobs, self.seed)

    def run(self) -> None:
        """Fill the whole canvas."""
        new_tokens = self.canvas.masked_BG.shape[1]
        block = int(self.knobs["block_length"] or new_tokens)
        steps = int(self.knobs.get("steps") or new_tokens) // (new_tokens // block)
        for first in range(0, new_tokens, block):
            self._block(slice(first, first + block), quotas(block, steps) if self.rule.SCHEDULED else None)
            self.work.block_ends.append(self.work.forwards)

    def _block(self, block: slice, schedule: list[int] | None) -> None:
        """One block. A schedule fixes the number of forwards; without one they go on until no mask is left."""
        canvas, length = self.canvas, block.stop - block.start
        at_least = 2 if self.reuse.KEEPS and self.knobs["published_loop"] else 1
        if schedule is not None and self.reuse.KEEPS:
            # With a cache the loop ends when the block is full: steps whose quota is 0 are not run.
            schedule = [q for q in schedule if q] + [0] * (at_least - sum(q > 0 for q in schedule))
        canvas.number_1.zero_()
        lo, hi = canvas.prompt_tokens + block.start, canvas.prompt_tokens + block.stop
        done_rows, forwards, left = 0, 0, length
        while forwards < len(schedule) if schedule is not None else (left or forwards < at_least):
            span = (0, canvas.length) if forwards == 0 else self.reuse.span(lo, hi, canvas.length)
            quota = None if schedule is None else schedule[forwards]
            self.workspace.run((lo, span, quota), lambda span=span, quota=quota: self._step(block, span, quota))  # type: ignore[misc]
            forwards += 1
            self._count(span, done_rows)
            if schedule is None:
                open_rows = canvas.masked_BG[:, block].any(1).tolist()
                left, done_rows = any(open_rows), open_rows.count(False)
            else:
                done_rows = len(canvas.prompts_B) if sum(schedule[:forwards]) == length else 0

    def _step(self, block: slice, span: tuple[int, int], quota: int | None) -> None:
        """Forward over `span` of the canvas, choose, rank, commit: on the device from beginning to end."""
        import torch

        canvas, (start, stop), prompt = self.canvas, span, self.canvas.prompt_tokens
        tokens_BQ, attend_BN = canvas.tokens_BN[:, start:stop], canvas.attend_BN
        if canvas.blind_BN is not None:
            canvas.blind_BN[:, prompt:] = canvas.new_BG
            tokens_BQ = torch.cat([tokens_BQ, canvas.blind_BN])
            attend_BN = None if attend_BN is None else torch.cat([attend_BN, attend_BN])
        hidden_BQD = self.model.forward(tokens_BQ, attend_BN, canvas.cache, start)
        seen = self.reader.block(hidden_BQD, canvas, block, prompt - start)
        decided = self.decide(seen.confidence_Bb, canvas.masked_BG[:, block], quota, self.rule.decide, self.knobs)
        commit_Bb, confidence_Bb = decided
        final_Bb = seen.chosen_Bb if canvas.reference_BG is None else canvas.reference_BG[:, block]
        canvas.new_BG[:, block] = torch.where(commit_Bb, final_Bb, canvas.new_BG[:, block])
        canvas.masked_BG[:, block] &= ~commit_Bb
        canvas.number_1 += 1
        canvas.forwards_1 += 1
        if canvas.log_prob_BG is not None and seen.log_prob_Bb is not None:
            canvas.log_prob_BG[:, block] += seen.log_prob_Bb.double().masked_fill(~commit_Bb, 0.0)
        if canvas.when_BG is not None and canvas.confidence_BG is not None:
            canvas.when_BG[:, block] += commit_Bb * canvas.forwards_1
            canvas.confidence_BG[:, block] += confidence_Bb.double().masked_fill(~commit_Bb, 0.0)

    def _count(self, span: tuple[int, int], done_rows: int) -> None:
        work, canvas, positions = self.work, self.canvas, span[1] - span[0]
        copies = 1 if canvas.blind_BN is None else 2
        work.forwards += 1
        work.positions += copies * len(canvas.prompts_B) * positions
        work.attention_pairs += copies * len(canvas.prompts_B) * positions * canvas.length
        work.wasted_positions += copies * done_rows * positions
        if self.observer is not None:
            self.observer(work.forwards)


def denoise(
    model: LanguageModel,
    batch: PromptBatch,
    new_tokens: int,
    knobs: Mapping[str, KnobValue],
    seed: int,
    *,
    observer: StepObserver | None = None,
    scored: bool = False,
    traced: bool = False,
) -> tuple[Canvas, Work]:
    """Run the loop without gradients; the canvas is the engine's, to be read before the next generation.

    Raises:
        InvalidLogitsError: the model gave NaN or infinity.
    """
    import torch

    with torch.inference_mode():
        tokens_BP, attend_BP = padded(batch, model)
        shape = (*tokens_BP.shape, new_tokens)
        keeps = registry.load("cache", str(knobs["cache"])).KEEPS
        needs = {
            "padding": attend_BP is not None,
            "keeps": keeps,
            "guided": float(knobs["cfg_scale"] or 0) > 0,
            "scored": scored,
            "traced": traced,
        }
        key = (shape, seed, *needs.items(), *sorted(knobs.items()))
        workspace = model.workspace(key, lambda: Canvas.blank(model, shape, **needs))
        workspace.state.lay(tokens_BP, attend_BP, batch)
        loop = Loop(model, workspace, knobs, seed, observer)
        loop.run()
        if not bool(loop.canvas.healthy):
            raise InvalidLogitsError("the model gave NaN or infinite logits")
    return loop.canvas, loop.work
