"""Section 4: what was varied, what was held fixed, and on which machine; and the environment for the appendix."""

from __future__ import annotations

from collections.abc import Sequence

from dlmbench.report.markdown import Markdown, bullets, escape, table
from dlmbench.report.numbers import counted, gib, listed, plain
from dlmbench.report.source import FAMILIES, Source
from dlmbench.types import Environment, ModelSpec

_ABSENT = "not on record"


def subtitle(source: Source) -> Markdown:
    """Which run of which models."""
    return Markdown(f"*Run {escape(source.name)}: {escape(listed(m.key for m in source.models))}.*")


def models(source: Source) -> Markdown:
    """Baseline and targets."""
    roles = {"baseline": "Baseline (autoregressive)", "target": "Target (diffusion)"}
    return bullets([f"{roles[m.role]}: {_model(m)}." for m in source.models] or ["No model has a cell."])


def _model(model: ModelSpec) -> str:
    family = FAMILIES.get(model.family, model.family)
    if model.weights == "random":
        return f"{model.key}: {family} of shape {model.source}, random weights"
    revision = f", revision {model.revision}" if model.revision else ""
    return f"{model.key}: {family}, {model.source}{revision}"


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


def hardware(source: Source) -> str:
    """The device in one sentence."""
    env = source.run.environment
    if env is None:
        return "Not on record."
    power = f", power cap {env.power_cap_w:g} W" if env.power_cap_w else ""
    host = f"host CPU {env.cpu}, {counted(env.cpu_threads, 'thread')}"
    return f"{env.device}, {gib(env.memory_bytes)} of memory{power}; {host}."


def software(source: Source) -> str:
    """The stack in one sentence."""
    env = source.run.environment
    if env is None:
        return "Not on record."
    cuda = f", CUDA {env.cuda}, driver {env.driver}" if env.cuda else ", no CUDA"
    return f"Python {env.python}, torch {env.torch}{cuda}, transformers {env.transformers}, dlmbench {env.dlmbench}."


def clock(source: Source) -> str:
    """Which clock timed the cells."""
    clocks = listed(dict.fromkeys(s.clock for r in source.run.results for s in r.timed))
    names = {"cuda": "CUDA events", "wall": "the host's wall clock (there is no GPU)"}
    return names.get(clocks, clocks if clocks != "none" else "no cell was timed")


def protocol(source: Source) -> str:
    """How often each cell should be repeated."""
    p = source.settings.protocol
    if p is None:
        return "The protocol's settings are not on record in the run's folder."
    fresh = ", each round in a fresh process" if p.fresh_process_per_round else ""
    return (
        f"{counted(p.warmup, 'warm-up pass')}".replace("passs", "passes")
        + f", then a pilot of {p.pilot}, from which the number of further repetitions is fixed "
        f"({p.min_repeats} to {p.max_repeats}, aimed at a half-width of {p.half_width:.0%} of the median, within "
        f"{p.max_time_s:g} s a cell), in {counted(p.rounds, 'round')}{fresh}."
    )


def repetitions(source: Source) -> str:
    """How many timed repetitions there are."""
    counts = [len(r.timed) for r in source.run.results if r.timed]
    if not counts:
        return "No cell was timed."
    span = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    return f"On record: {span} timed repetitions a cell, {sum(counts):,} in all."


def prompts(source: Source) -> str:
    """Where the prompts come from."""
    p = source.settings.prompts
    if p is None:
        return f"Prompt sets as named in the cells: {listed(source.values('prompts'))}."
    count = (
        f"{p.count} prompts"
        if p.count
        else f"all prompts that are long enough, at most {p.limit}"
        if p.limit
        else "all"
    )
    where = f" ({p.path})" if p.path else ""
    return f"{p.source}{where}, {count}, chosen with seed {p.seed}."


def design(sources: Sequence[Source]) -> Markdown:
    """The summary of the design, one column per run."""
    rows: list[tuple[str, ...]] = []
    for kind, name, read in _DESIGN:
        rows.append((kind, name, *(read(s) for s in sources)))
    return table(("type", "variable", *(s.name for s in sources)), rows, 2 + len(sources))


_DESIGN = (
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
