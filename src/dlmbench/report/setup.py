"""Section 4: what was varied and what was held fixed; and the environment for the appendix."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dlmbench.report.markdown import Markdown, table
from dlmbench.report.numbers import from_to, gib, listed, plain
from dlmbench.report.source import Source
from dlmbench.types import Environment

_ABSENT = "not on record"


def values(source: Source, name: str, role: str | None = None) -> str:
    """The values of an axis, as a list."""
    return listed(map(plain, source.values(name, role)))


def lengths(source: Source) -> str:
    """Every N with its P and G."""
    shapes = sorted({(s.cell.sequence_length, s.cell.prompt_tokens, s.cell.new_tokens) for s in source.study.cells})
    return listed(f"{n} (P={p}, G={g})" for n, p, g in shapes)


def knobs(source: Source) -> Markdown:
    """Every setting of the diffusion sampler with its values."""
    names = dict.fromkeys(name for s in source.targets for name, _ in s.cell.knobs if name != "steps")
    rows = []
    for name in names:
        known = dict.fromkeys(s.cell.knob(name) for s in source.targets if name in dict(s.cell.knobs))
        rows.append((name, listed(map(plain, known))))
    return table(("setting", "values"), rows, 2) if rows else Markdown("No diffusion cell is planned.")


def clock(source: Source) -> str:
    """Which clock timed the cells."""
    names = {"cuda": "CUDA events", "wall": "the host's wall clock (there is no GPU)"}
    clocks = dict.fromkeys(s.clock for r in source.run.results for s in r.timed)
    return listed(names.get(c, c) if len(clocks) == 1 else c for c in clocks) if clocks else "no cell was timed"


def repetitions(source: Source) -> str:
    """How many timed repetitions there are."""
    counts = [len(r.timed) for r in source.run.results if r.timed]
    if not counts:
        return "No cell was timed."
    return f"On record: {from_to(counts, lambda n: f'{n:g}')} timed repetitions a cell, {sum(counts):,} in all."


_DESIGN: tuple[tuple[str, str, Callable[[Source], str]], ...] = (
    ("independent", "models", lambda s: listed(m.key for m in s.models)),
    ("independent", "diffusion steps K", lambda s: values(s, "steps")),
    ("independent", "batch size B", lambda s: values(s, "batch_size")),
    ("independent", "sequence length N", lengths),
    ("independent", "block length", lambda s: values(s, "block_length", "target")),
    ("control", "new tokens G, the same for both models", lambda s: values(s, "new_tokens")),
    ("control", "precision", lambda s: values(s, "precision")),
    ("control", "attention setting", lambda s: values(s, "attention")),
    ("control", "engine", lambda s: values(s, "engine")),
    ("control", "temperature", lambda s: values(s, "temperature")),
    ("control", "device", lambda s: s.run.environment.device if s.run.environment else _ABSENT),
    ("control", "prompts", lambda s: values(s, "prompts")),
)


def design(sources: Sequence[Source]) -> Markdown:
    """The summary of the design, one column per run."""
    rows = [(kind, name, *(read(s) for s in sources)) for kind, name, read in _DESIGN]
    return table(("type", "variable", *(s.name for s in sources)), rows, 2 + len(sources))


def environment(source: Source) -> Markdown:
    """Everything on record about the machine and its software."""
    env = source.run.environment
    if env is None:
        return Markdown("The environment is not on record.")
    shown = {**{n: getattr(env, n) for n in env.__dataclass_fields__}, "memory_bytes": gib(env.memory_bytes)}
    marks = dict.fromkeys(Environment.COMPARABLE, " (must agree within a folder)")
    rows = [
        (f"{n.removesuffix('_bytes')}{marks.get(n, '')}", _ABSENT if v is None else str(v)) for n, v in shown.items()
    ]
    return table(("what", "value"), rows, 2)
