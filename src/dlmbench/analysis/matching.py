"""Which cells belong together: curves over K, the baseline of each, and labels that tell them apart."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

from dlmbench.analysis.nouns import CellSummary
from dlmbench.types import Cell, Knobs, KnobValue


def labels_of(cells: Sequence[Cell]) -> dict[str, str]:
    """Cell id -> model key and, of the settings other than K, B, P and G, as few as tell its role's cells apart."""
    labels = {}
    for role in ("baseline", "target"):
        group = [c for c in cells if c.model.role == role]
        settings = [_settings(c) for c in group]
        names = list(dict.fromkeys(itertools.chain.from_iterable(settings)))
        varying: list[str] = []
        for name in names:
            # A setting that follows from those already shown (a threshold only one rule has) says nothing new.
            if _distinct(settings, [*varying, name]) > _distinct(settings, varying):
                varying.append(name)
        for cell, own in zip(group, settings, strict=True):
            shown = [_in_words(n, own[n]) for n in varying if n in own]
            labels[cell.id] = ", ".join([cell.model.key, *shown])
    return labels


def _distinct(settings: Sequence[Mapping[str, KnobValue]], names: Sequence[str]) -> int:
    return len({tuple(s.get(n) for n in names) for s in settings})


def _in_words(name: str, value: KnobValue) -> str:
    if name == "block_length":
        return "one block" if value is None else f"block {value}"
    if name == "cache":
        return "no cache" if value == "none" else f"{value} cache"
    speaks_for_itself = name in ("engine", "sampler", "precision", "commit")
    return str(value) if speaks_for_itself else f"{name.replace('_', ' ')} {value}"


def _settings(cell: Cell) -> dict[str, KnobValue]:
    fixed: dict[str, KnobValue] = {
        "engine": cell.engine,
        "sampler": cell.sampler,
        "precision": cell.precision,
        "attention": cell.attention,
        "seed": cell.seed,
        "prompts": cell.prompts,
    }
    return fixed | dict(knobs_without_steps(cell))


def knobs_without_steps(cell: Cell) -> Knobs:
    """The knobs that all points of a curve share."""
    return tuple((name, value) for name, value in cell.knobs if name != "steps")


def curve_key(cell: Cell) -> tuple[object, ...]:
    """Equal for the points of one curve: all but the steps."""
    settings = tuple(sorted((k, str(v)) for k, v in _settings(cell).items()))
    return (cell.model, settings, cell.prompt_tokens, cell.new_tokens, cell.batch_size)


def timed_of(cells: Iterable[CellSummary]) -> list[CellSummary]:
    """Those of `cells` that have a latency."""
    return [c for c in cells if c.latency is not None]


def nearest(cell: Cell, baselines: Iterable[CellSummary], same_batch: bool) -> CellSummary | None:
    """The baseline of the same P and G (and B) that agrees with `cell` in most settings; the first among equals."""
    same = [
        b
        for b in baselines
        if (b.cell.prompt_tokens, b.cell.new_tokens) == (cell.prompt_tokens, cell.new_tokens)
        and (not same_batch or b.cell.batch_size == cell.batch_size)
    ]
    own = _settings(cell)

    def agreement(baseline: CellSummary) -> tuple[int, bool]:
        theirs = _settings(baseline.cell)
        return sum(theirs.get(n) == v for n, v in own.items()), baseline.cell.batch_size == cell.batch_size

    return max(same, key=agreement, default=None)
