"""What page and document print besides tables: how a run was measured, what is missing, and sample texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from dlmbench import registry
from dlmbench.analysis.contrasts import setting
from dlmbench.analysis.findings import by_kind
from dlmbench.analysis.published import published_answers, published_of
from dlmbench.analysis.replication import LEAST_PROCESSES, UNMEASURED_FLOOR, floor_of, usable
from dlmbench.analysis.results import CellSummary, Curve, Study
from dlmbench.analysis.stats import group_by
from dlmbench.charts.figure import Figure, figures_of
from dlmbench.report.answer import Answer, answer_of
from dlmbench.report.commands import commands_of
from dlmbench.report.tables import Table, cell_table, name_of, published_table, shape
from dlmbench.report.text import counted, from_to, gib, listed, percent, plain
from dlmbench.results import read_generations
from dlmbench.results.settings import ExperimentSettings, load_settings
from dlmbench.tasks.records import TaskResults
from dlmbench.tasks.records import read as read_tasks
from dlmbench.types import Finding, ModelSpec, Run

ABSENT = "not on record"
CLOCKS = {"cuda": "CUDA events", "wall": "the host's wall clock (there is no GPU)"}
STATUS = {
    "ok": "complete",
    "unfinished": "with timed repetitions but not complete",
    "oom": "out of memory",
    "invalid": "with invalid output",
    "error": "ended by an error",
}


@dataclass(frozen=True)
class NotMeasured:
    """Something that was not measured, why, and what it concerns."""

    what: str
    why: str
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """One run and everything a report needs from it."""

    run: Run
    study: Study

    @cached_property
    def figures(self) -> tuple[Figure, ...]:
        """Every figure of the run, those not measured included."""
        return figures_of(self.run, self.study)

    @cached_property
    def settings(self) -> ExperimentSettings:
        """The settings of the experiment file."""
        return load_settings(self.run.folder)

    @cached_property
    def answer(self) -> Answer:
        """The answer of the run."""
        return answer_of(self.study)

    @cached_property
    def cells(self) -> Table:
        """The table of cells."""
        return cell_table(self.study)

    @cached_property
    def published(self) -> Table:
        """Published quality with the times of this run; no rows where its folder has no published scores."""
        return published_table(published_answers(published_of(self.run), self.study))

    @property
    def counts(self) -> str:
        """How many cells there are and how they ended."""
        ended = Counter(c.status_text for c in self.study.cells)
        parts = [f"{n:,} {STATUS.get(status, status)}" for status, n in ended.items()]
        text = f"{counted(ended.total(), 'cell')}: {listed(parts)}." if ended else "No cell is on record."
        lost = len(self.run.left_out)
        return text + (f" {counted(lost, 'combination')} of the grid could not be run." if lost else "")

    @property
    def repetitions(self) -> str:
        """How many processes and timed repetitions there are, and what timed them."""
        timed = [r.timed for r in self.run.results if r.timed]
        if not timed:
            return "No cell was timed."
        times, processes = (
            from_to(values, plain)
            for values in (list(map(len, timed)), [len({s.process_id for s in t}) for t in timed])
        )
        clocks = listed(dict.fromkeys(CLOCKS.get(s.clock, s.clock) for t in timed for s in t))
        return f"On record: {times} timed repetitions a cell; processes: {processes}. Clock: {clocks}."

    @property
    def noise_floor(self) -> str:
        """What differences cannot be shown on this machine, as a sentence; "" where no cell was timed."""
        timed = [r for r in self.run.results if usable(r)]
        if not timed:
            return ""
        check = self.run.selfcheck
        if check is not None and all(check.floor(r.cell.engine, 1) is not None for r in timed):
            floor = max(floor_of(r, check) for r in timed)
            return f"Differences under {percent(floor)} cannot be shown here (self-check of this machine)."
        if min(len({s.process_id for s in r.timed}) for r in timed) < LEAST_PROCESSES:
            return f"Noise floor not measured: {percent(UNMEASURED_FLOOR)} assumed."
        return "Noise floor not measured; no verdict needs it, for every cell ran in three processes."

    @cached_property
    def commands(self) -> list[str]:
        """The commands that make this run again and write its report."""
        return commands_of(self.run, self.settings)

    @cached_property
    def models(self) -> tuple[ModelSpec, ...]:
        """Every model that has a cell, baselines first."""
        found = dict.fromkeys(s.cell.model for s in self.study.cells)
        return tuple(sorted(found, key=lambda m: m.role != "baseline"))

    @property
    def random(self) -> tuple[str, ...]:
        """The models whose weights are random."""
        return tuple(m.key for m in self.models if m.weights == "random")

    @property
    def unpublished(self) -> tuple[str, ...]:
        """The models that are not a published checkpoint, listed by its family, with its trained weights."""
        known = {m: m.source in registry.attribute("families", m.family, "PUBLISHED", {}) for m in self.models}
        return tuple(m.key for m in self.models if m.weights != "pretrained" or not known[m])

    @property
    def why_no_quality(self) -> str:
        """Why there is no parity in this run."""
        if self.random:
            return f"the weights of {listed(self.random)} are random"
        if not self.study.metrics:
            return "no metric was scored"
        if not self.study.baselines:
            return "there is no autoregressive baseline in the run"
        return "no metric of quality was scored text by text for both models"

    @cached_property
    def tasks(self) -> TaskResults:
        """What `dlmbench tasks` wrote into the run's folder; empty where it was not run there."""
        return read_tasks(Path(self.run.folder))

    @cached_property
    def scored_curves(self) -> tuple[Curve, ...]:
        """One curve for each set of texts that has a parity: batch sizes share theirs, the most step counts lead."""
        groups = group_by((c for c in self.study.curves if c.headline()), lambda c: (c.label, c.lengths))
        return tuple(max(group, key=lambda c: len(c.points)) for group in groups.values())

    def not_measured(self) -> Iterator[NotMeasured]:
        """Everything that is missing, from whole questions to single cells."""
        yield from (NotMeasured("The study", why) for why in self.study.missing)
        for reason, lost in group_by(self.run.left_out, lambda o: o.reason).items():
            what = f"{counted(len(lost), 'combination')} left out of the plan"
            yield NotMeasured(what, reason, tuple(o.label for o in lost))
        untimed = (c for c in self.study.cells if c.latency is None)
        for (status, reason), group in group_by(untimed, lambda c: (c.status_text, c.reason)).items():
            text = "out of memory" if status == "oom" else status
            why = "planned, and not reached" if status == "not measured" else text
            why = reason if reason not in ("", text) else why
            yield NotMeasured(f"{counted(len(group), 'cell')}: {text}", why, tuple(c.cell.label for c in group))
        pairs = ((reason, name_of(curve)) for curve in self.study.curves for reason in curve.missing)
        for reason, named in group_by(pairs, lambda p: p[0]).items():
            # Cells that failed have been named already.
            if not reason.startswith("K="):
                yield NotMeasured(f"{counted(len(named), 'curve')} over K", reason, tuple(name for _, name in named))
        expected = (
            n for n in registry.loadable("metrics") if registry.attribute("metrics", n, "REPORT_IF_MISSING", False)
        )
        if absent := sorted(set(expected) - {m.name for m in self.study.metrics}):
            titles = (registry.attribute("metrics", name, "TITLE", name) for name in absent)
            yield NotMeasured("Not scored", listed(titles))
        if self.cells.unmeasured:
            yield NotMeasured("In no cell", listed(self.cells.unmeasured))

    @cached_property
    def environment(self) -> list[tuple[str, str]]:
        """Everything on record about the machine, its software and the time; empty without an environment."""
        env = self.run.environment
        if env is None:
            return []
        started = sorted(s.started_at for r in self.run.results for s in r.samples)
        ends = (t[:16].replace("T", " ") for t in (started[0], started[-1])) if started else ()
        shown = {f.name: getattr(env, f.name) for f in fields(env)}
        shown |= {"memory_bytes": gib(env.memory_bytes), "power_cap_w": env.power_cap_w and f"{env.power_cap_w:g} W"}
        shown |= {"host": f"{env.host} (a hash)", "measured": " to ".join(ends) or None, "environment_id": env.id}
        names = (n.removesuffix("_bytes").removesuffix("_w").replace("_", " ") for n in shown)
        return [(n, ABSENT if v is None else str(v)) for n, v in zip(names, shown.values(), strict=True)]

    @property
    def finding_groups(self) -> list[list[Finding]]:
        """Findings of the same kind and severity together, errors first."""
        return by_kind(self.study.findings)

    def name_of(self, summary: CellSummary) -> str:
        """A cell's label and shape."""
        return f"{self.study.label(summary.cell)}, {shape(summary.cell)}"

    def of_role(self, role: str) -> tuple[CellSummary, ...]:
        """All cells of the baseline or the target."""
        return tuple(s for s in self.study.cells if s.cell.model.role == role)

    def values(self, name: str, role: str | None = None) -> tuple[Any, ...]:
        """The values that a cell's attribute or knob takes, each once, numbers ascending, None left out."""
        cells = (s.cell for s in self.study.cells if role in (None, s.cell.model.role))
        found = [v for v in dict.fromkeys(setting(c, name) for c in cells) if v is not None]
        return tuple(sorted(found)) if all(isinstance(v, int | float) for v in found) else tuple(found)

    def knobs(self) -> str:
        """Every setting of the diffusion sampler with its values."""
        names = dict.fromkeys(n for s in self.of_role("target") for n, _ in s.cell.knobs if n != "steps")
        known = {n: listed(map(plain, self.values(n, "target") or [None])) for n in names}
        return "; ".join(f"{name.replace('_', ' ')} {values}" for name, values in known.items())

    def lengths(self, most: int) -> str:
        """At most so many N, each with its P and G."""
        shapes = sorted({(s.cell.sequence_length, s.cell.prompt_tokens, s.cell.new_tokens) for s in self.study.cells})
        more = [f"{len(shapes) - most} more"] if len(shapes) > most else []
        return listed([*(f"{n} ({p}+{g})" for n, p, g in shapes[:most]), *more])

    def sample_texts(self, most: int) -> tuple[int, tuple[tuple[str, str], ...]]:
        """What the models wrote after one prompt: its index, and pairs of writer and text.

        The writers are the baseline and at most `most` points of a curve, from few to many steps; those without a
        stored text are left out.
        """
        curve = next(iter((*self.scored_curves, *self.study.curves)), None)
        base = (curve.quality_baseline or curve.baseline) if curve else next(iter(self.study.baselines), None)
        points = [p.cell for p in curve.points] if curve else []
        if len(points) > most:
            points = [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]
        keys = {c.cell.id: c.cell.quality_key for c in self.study.cells}
        texts: dict[str, dict[int, str]] = {}
        for g in read_generations(Path(self.run.folder)):
            if g.text and g.cell_id in keys:
                texts.setdefault(keys[g.cell_id], {})[g.prompt_index] = g.text
        writers = [c for c in (*([base.cell] if base else []), *points) if c.quality_key in texts]
        shared = set.intersection(*(set(texts[c.quality_key]) for c in writers)) if writers else set()
        if not shared:
            return 0, ()
        prompt = min(shared)
        names = [self.study.label(c) + (" (autoregressive)" if c.steps is None else f", K={c.steps}") for c in writers]
        return prompt, tuple((n, texts[c.quality_key][prompt]) for n, c in zip(names, writers, strict=True))
