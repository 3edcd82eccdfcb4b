"""The knobs of a grid: their combinations, and values that are always invalid.

A knob can belong to a part of a sampler, its commit rule or cache (`steps` to the commit rules with a schedule). The
product is therefore taken for each choice of parts, over the knobs that these parts have.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from dlmbench import registry
from dlmbench.errors import BenchError, did_you_mean
from dlmbench.types import Grid, KnobValue, SamplerAxes


def combinations(axes: SamplerAxes) -> Iterator[dict[str, KnobValue]]:
    """Every combination of knob values, including the defaults of knobs without an axis.

    Raises:
        BenchError: an unknown sampler or part.
    """
    values = dict(axes.knobs)
    own = registry.knobs_of(axes.sampler, {})
    choices = registry.parts(axes.sampler)
    for picked in itertools.product(*(values.get(part, (own[part].default,)) for part in choices)):
        chosen = dict(zip(choices, picked, strict=True))
        knobs = registry.knobs_of(axes.sampler, chosen)
        free = [name for name in knobs if name not in chosen]
        for setting in itertools.product(*(values.get(name, (knobs[name].default,)) for name in free)):
            yield chosen | dict(zip(free, setting, strict=True))


def unused_knobs(axes: SamplerAxes) -> tuple[str, ...]:
    """Knobs that are set but belong to no selected part, so they have no effect."""
    used = {name for combination in combinations(axes) for name in combination}
    return tuple(name for name, _ in axes.knobs if name not in used)


def impossible_value(grid: Grid, axes: SamplerAxes) -> tuple[str, KnobValue, str] | None:
    """A (knob, value, reason) that the sampler rejects in every combination of the grid."""
    check = registry.load("samplers", axes.sampler).check
    reasons: dict[tuple[str, KnobValue], str] = {}
    possible: set[tuple[str, KnobValue]] = set()
    for combination in combinations(axes):
        pairs = [(name, combination[name]) for name, _ in axes.knobs if name in combination]
        for new_tokens in dict.fromkeys(new for _, new in grid.lengths):
            reason = check(combination, new_tokens)
            if reason is None:
                possible.update(pairs)
                continue
            for pair in pairs:
                reasons.setdefault(pair, reason)
    impossible = [(*pair, reason) for pair, reason in reasons.items() if pair not in possible]
    # One value can rule out all others of the grid, which then look impossible too; the reason names the right one.
    return next((i for i in impossible if i[0] in i[2]), impossible[0] if impossible else None)


def owners(knob: str) -> tuple[str, ...]:
    """The samplers that have this knob.

    Raises:
        BenchError: no sampler has it.
    """
    found = tuple(s for s in registry.names("samplers") if knob in registry.all_knobs(s))
    if not found:
        raise BenchError(f"unknown knob '{knob}'", did_you_mean(knob, registry.knob_names()))
    return found
