"""The axes of a grid: which combinations of knob values there are, and which values cannot go with anything.

A knob may belong to a part (`steps` to the commit rules that follow a schedule), so the product is taken part by
part: what the chosen parts lack is not there to be varied, and combinations that differ in it alone are one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from dlmbench import registry
from dlmbench.errors import BenchError, did_you_mean
from dlmbench.types import Grid, KnobValue, SamplerAxes

_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def combinations(axes: SamplerAxes) -> Iterator[dict[str, KnobValue]]:
    """Every combination of knob values, the defaults of knobs without an axis included.

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
    """Knobs that are given values although no chosen part has them, so that nothing would come of it."""
    used = {name for combination in combinations(axes) for name in combination}
    return tuple(name for name, _ in axes.knobs if name not in used)


def impossible_value(grid: Grid, axes: SamplerAxes) -> tuple[str, KnobValue, str] | None:
    """A (knob, value, reason) that the sampler refuses at every length and with every other value of the grid."""
    check = registry.load("samplers", axes.sampler).check
    reasons: dict[tuple[str, KnobValue], str] = {}
    possible: set[tuple[str, KnobValue]] = set()
    for combination in combinations(axes):
        given = [(name, combination[name]) for name, _ in axes.knobs if name in combination]
        for new_tokens in dict.fromkeys(new for _, new in grid.lengths):
            reason = check(combination, new_tokens)
            if reason is None:
                possible.update(given)
                continue
            for pair in given:
                reasons.setdefault(pair, reason)
    blamed = [(*pair, reason) for pair, reason in reasons.items() if pair not in possible]
    # Where one value rules out all the others of the grid, the reason names it: blame that one rather than a bystander.
    return next((b for b in blamed if b[0] in b[2]), blamed[0] if blamed else None)


def owners(knob: str) -> tuple[str, ...]:
    """The samplers that have this knob.

    Raises:
        BenchError: none has it.
    """
    found = tuple(s for s in registry.names("samplers") if knob in registry.all_knobs(s))
    if not found:
        raise BenchError(f"unknown knob '{knob}'", did_you_mean(knob, registry.knob_names()))
    return found


def from_text(knob: str, texts: Sequence[str]) -> tuple[KnobValue, ...]:
    """Values of a knob as the command line gives them, in the knob's own type; `null` leaves an optional one open.

    Raises:
        BenchError: an unknown knob, a text of the wrong type, or a part that does not exist.
    """
    sampler = owners(knob)[0]
    declared = registry.all_knobs(sampler)[knob]
    values: list[KnobValue] = []
    for text in texts:
        if declared.optional and text in ("null", "none", "~"):
            values.append(None)
            continue
        try:
            value: KnobValue = _FLAGS[text.lower()] if declared.kind is bool else declared.kind(text)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError
            values.append(value)
        except (ValueError, KeyError):
            raise BenchError(f"knob {knob}: '{text}' is not {kind_in_words(declared.kind)}", declared.help) from None
        folder = registry.parts(sampler).get(knob)
        if folder is not None and text not in registry.names(folder):
            raise BenchError(f"knob {knob}: unknown value '{text}'", did_you_mean(text, registry.names(folder)))
        if declared.kind is int and int(text) < 1:
            raise BenchError(f"knob {knob}: {text} is less than 1", declared.help)
    return tuple(dict.fromkeys(values))


def kind_in_words(kind: type) -> str:
    """What a value of this type is called in a message."""
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[kind]
