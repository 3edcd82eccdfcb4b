"""The break-even surface k*(P, G, B): at how many steps diffusion takes as long as decoding, on any device.

All steps of a schedule cost the same (with a cache all but the first of each block), so latency is a line in the step
count, and two of its points tell where it meets the baseline's latency.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from dlmbench.roofline import corrected, operators
from dlmbench.roofline.corrected import GivenEfficiencies
from dlmbench.roofline.hardware import Hardware
from dlmbench.types import Architecture, Cell, KnobValue

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class BreakEvenPoint:
    """The step count k* at which diffusion takes as long as the baseline, at one shape (P, G, B).

    steps: may lie above G, where every schedule wins, and below 1, where none does.
    """

    prompt_tokens: int
    new_tokens: int
    batch_size: int
    steps: float


@dataclass(frozen=True)
class BreakEvenSurface:
    """The break-even points of one setting of diffusion against one setting of the baseline."""

    target: str
    baseline: str
    points: tuple[BreakEvenPoint, ...]


def break_even_surface(
    baseline: tuple[Cell, Architecture],
    target: tuple[Cell, Architecture],
    hardware: Hardware,
    shapes: Iterable[Shape],
    efficiencies: GivenEfficiencies = None,
) -> tuple[BreakEvenPoint, ...]:
    """k* by the model for each shape (P, G, B), with the engines, samplers and knobs of two cells.

    A block that spans all new tokens of the target grows with them; shapes that any other block length does not divide
    are left out. Empty for a target without a schedule and for engines without efficiencies.
    """
    points, block = [], _block(target[0])

    def seconds(of: tuple[Cell, Architecture], shape: Shape, **knobs: KnobValue) -> float | None:
        cell, arch = of
        prompt, new, batch = shape
        changed = tuple((k, knobs.get(k, v)) for k, v in cell.knobs)
        shaped = replace(cell, prompt_tokens=prompt, new_tokens=new, batch_size=batch, knobs=changed)
        return corrected.predict(shaped, arch, hardware, efficiencies).latency_s

    for shape in shapes:
        new = shape[1]
        if new % (block or new):
            continue
        # One step a token, and (with more than two tokens a block) two a block, which a cache needs at least.
        most, least = new, 2 * (new // (block or new))
        base_s = seconds(baseline, shape)
        most_s = seconds(target, shape, block_length=block, steps=most)
        least_s = seconds(target, shape, block_length=block, steps=least) if least < most else 0.0
        if base_s is None or most_s is None or least_s is None:
            continue
        step_s = (most_s - least_s) / (most - least) if least < most else most_s / most
        fixed_s = most_s - step_s * most
        points.append(BreakEvenPoint(*shape, (base_s - fixed_s) / step_s))
    return tuple(points)


def _block(cell: Cell) -> int | None:
    """The block length of a target; None where one block spans all new tokens."""
    block = cell.knob("block_length")
    return None if block is None or block == cell.new_tokens else int(block)


def surfaces(
    cells: Sequence[Cell],
    known: Mapping[str, Architecture],
    hardware: Hardware,
    efficiencies: GivenEfficiencies = None,
) -> tuple[BreakEvenSurface, ...]:
    """The surface of every setting in which a plan runs diffusion, over its lengths and batch sizes.

    A target's baseline is the one that shares most of engine, precision and attention. known: architectures by model
    key; models without one are left out.
    """
    usable = [c for c in cells if c.model.key in known]
    baselines = [c for c in usable if operators.is_decoding(c)]
    settings: dict[tuple[object, ...], list[Cell]] = {}
    for cell in usable:
        if operators.paradigm_of(cell) == "diffusion":
            settings.setdefault((cell.model.key, _setting(cell), *_knobs(cell)), []).append(cell)
    found = []
    for group in settings.values() if baselines else ():
        first = group[0]
        base = max(baselines, key=lambda b: sum(x == y for x, y in zip(_setting(b), _setting(first), strict=True)))
        shapes = sorted({(c.prompt_tokens, c.new_tokens, c.batch_size) for c in group})
        pair = [(c, known[c.model.key]) for c in (base, first)]
        points = break_even_surface(pair[0], pair[1], hardware, shapes, efficiencies)
        found.append(BreakEvenSurface(_label(first), _label(base), points))
    return tuple(s for s in found if s.points)


def _setting(cell: Cell) -> tuple[str, ...]:
    return cell.engine, cell.precision, cell.attention


def _knobs(cell: Cell) -> tuple[tuple[str, KnobValue], ...]:
    """The knobs that tell one setting from another: all but the step count."""
    own = {**dict(cell.knobs), "block_length": _block(cell)}
    return tuple((k, v) for k, v in sorted(own.items()) if k != "steps")


def _label(cell: Cell) -> str:
    shown = [f"{k}={v}" for k, v in _knobs(cell) if v not in (None, False, 0, "none") and k != "confidence_dtype"]
    return ", ".join([cell.model.key, *_setting(cell), *shown])
