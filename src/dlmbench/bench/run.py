"""A whole run: find the models, measure speed, score quality. Everything is recorded in the run folder.

Tables, figures and the report are made from that folder alone, without the models, and on any machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

from dlmbench import prompts as prompt_sources
from dlmbench.analysis.published import keep_published, read_published
from dlmbench.analysis.stats import group_by
from dlmbench.bench.forecast import AS_FOUND, Machine, RunForecast, forecast_run, load_seconds, process_s
from dlmbench.bench.generate import cells_beyond_context, default_device
from dlmbench.bench.gpus import Dealing, run_on
from dlmbench.bench.quality import score_run
from dlmbench.bench.speed import RunState, SpeedPass
from dlmbench.bench.worker import ANYWHERE, Placement, Pool
from dlmbench.errors import BenchError
from dlmbench.experiment import plan as grid
from dlmbench.measure.environment import fingerprint
from dlmbench.measure.memory import host_memory
from dlmbench.models import FoundModel, identity
from dlmbench.results import Store, load_settings, read_run
from dlmbench.results.journal import replace_file
from dlmbench.results.selfcheck import copy_selfcheck
from dlmbench.results.settings import EXPERIMENT, other_settings
from dlmbench.roofline.corrected import is_launch_bound
from dlmbench.roofline.operators import ELEMENT_BYTES
from dlmbench.scoring.settings import MetricSettings, settle
from dlmbench.types import (
    Architecture,
    Cell,
    Experiment,
    ModelSpec,
    Plan,
    Progress,
    Prompt,
    PromptBatch,
    PromptSets,
    PromptSettings,
    ProtocolSettings,
)


def run(
    experiment: Experiment,
    plan: Plan,
    output: Path,
    progress: Progress,
    machine: Machine = AS_FOUND,
    *,
    try_oom: bool = False,
    whole: Plan | None = None,
    processes: Mapping[str, tuple[int, ...]] | None = None,
    placements: Sequence[Placement] = (ANYWHERE,),
    concurrent: bool = False,
) -> str:
    """Speed pass, then quality pass; recorded work is skipped. Returns a hint where the machine's noise is unknown.

    machine: the device, where it is not the one found. try_oom: also try cells that are predicted not to fit into
    memory. whole: the plan that `plan` is a part of; prompts suit every model of it, so that all parts use the same
    ones. processes: by cell id, which of a cell's processes to run here, None for all; a cell is inspected and scored
    where its process 0 runs. placements: the devices to use (`gpus.find_gpus`); concurrent: all at once even for cells
    that the host's work for the others slows.

    Raises:
        BenchError: a model that cannot be used, a folder that cannot be written or holds results of other models,
            another device than `machine` says, or a damaged self-check.
    """
    # What a metric lacks must be reported now, not after hours of measuring.
    requests = settle(experiment.metrics, experiment.metric_settings)
    if experiment.published is not None:
        read_published(Path(experiment.published))
    cells = (whole or plan).cells
    found = _find_models(experiment.models, cells)
    specs = tuple(found[s.key].spec if s.key in found else s for s in experiment.models)
    experiment, plan = replace(experiment, models=specs), grid.with_models(plan, specs)
    device = default_device()
    environment = fingerprint(device)
    known = {key: model.architecture for key, model in found.items()}
    outlook = forecast_run(plan.cells, known, environment, machine)
    with ExitStack() as stack:
        store = stack.enter_context(Store.open(output, environment, experiment.name, plan))
        replace_file(output / EXPERIMENT, json.dumps(asdict(experiment), indent=2) + "\n")
        if experiment.published is not None:
            keep_published(Path(experiment.published), output)
        hint = copy_selfcheck(output, environment)
        pools = [stack.enter_context(Pool(found, device, placement)) for placement in placements]
        prompts = _Prompts(experiment.prompts, found, cells)
        speed = SpeedPass(plan, RunState(experiment, store, progress, outlook.expectation), pools[0], processes or {})
        speed.skip(cells_beyond_context(plan.cells, known), "invalid")
        if not try_oom:
            speed.skip(outlook.too_large)
        if not speed.is_done:
            used = {cell.model.key for cell in plan.cells}
            together = _fit_together(found, used, cells, device)
            if len(pools) == 1:
                speed.run(prompts.speed, together=together)
            else:
                on_gpu = device == "cuda"
                dealing = _dealing(outlook, plan, known, experiment.protocol, on_gpu=on_gpu, concurrent=concurrent)
                run_on(speed, pools, dealing, prompts.speed, together=together)
            progress.left(None, 0)
        scored = replace(plan, cells=tuple(c for c in plan.cells if speed.is_inspected(c)))
        score_run(scored, requests, store, pools[0], lambda: prompts.quality, progress)
    return hint


def _dealing(
    outlook: RunForecast,
    plan: Plan,
    known: Mapping[str, Architecture],
    protocol: ProtocolSettings,
    *,
    on_gpu: bool,
    concurrent: bool,
) -> Dealing:
    """What the cells are dealt out by: predicted seconds, or amounts of work where the device is unknown."""
    weights = {c.id: w for c in plan.cells if (w := outlook.expectation.weight(c)) is not None}
    weights |= dict.fromkeys(outlook.too_large, 0.0)  # they fail as soon as they are tried
    alone = (c.id for c in plan.cells if is_launch_bound(c, known[c.model.key], outlook.device))
    serial = frozenset(alone if on_gpu and not concurrent else ())
    if not outlook.expectation.is_seconds:
        return Dealing(weights, {}, serial)
    seconds = {i: process_s(latency_s, protocol) for i, latency_s in weights.items()}
    return Dealing(seconds, load_seconds(plan.cells, known), serial)


def refuse_other_settings(output: Path, experiment: Experiment) -> None:
    """Check that `experiment` extends the run in `output` along axes only; fewer or more prompts are such an axis.

    Raises:
        BenchError: it has another prompt source, seed or protocol, which are named.
    """
    if found := other_settings(load_settings(output), experiment):
        raise BenchError(
            f"{output} was measured with other settings ({'; '.join(found)})",
            "Choose a new --output-dir, or add to this one all the same with --extend",
        )


def score(output: Path, metrics: Sequence[str], settings: MetricSettings, progress: Progress) -> None:
    """Add `metrics` to a finished run, from its texts and references; `settings` override the experiment's.

    Raises:
        BenchError: no run there, a metric that does not exist or lacks what it needs, a model or a prompt file that has
            changed since.
    """
    finished = read_run(output)
    assert finished.environment is not None
    recorded = load_settings(output)
    assert recorded.prompts is not None
    own = recorded.metric_settings
    requests = settle(metrics, {m: {**own.get(m, {}), **settings.get(m, {})} for m in metrics})
    # The saved experiment is the last command's; its models and number of prompts may be fewer than those on record.
    found = _find_models({c.model.key: c.model for c in finished.cells}.values(), finished.cells)
    parts = [
        (Plan(tuple(cells)), _Prompts(prompt_sources.recorded_settings(recorded.prompts, identity), found, cells))
        for identity, cells in group_by(finished.cells, lambda cell: cell.prompts).items()
    ]
    with ExitStack() as stack:
        # Scores do not depend on where the speed was measured, so the folder's environment is kept.
        store = stack.enter_context(Store.open(output, finished.environment, finished.name))
        pool = stack.enter_context(Pool(found, default_device()))
        for plan, prompts in parts:
            score_run(plan, requests, store, pool, lambda prompts=prompts: prompts.quality, progress)  # type: ignore[misc]


def _find_models(specs: Iterable[ModelSpec], cells: Sequence[Cell]) -> dict[str, FoundModel]:
    """The models that the cells use, by key and with their content, before anything is measured."""
    used = {cell.model.key for cell in cells}
    return {spec.key: identity.find_identified(spec) for spec in specs if spec.key in used}


def _fit_together(found: dict[str, FoundModel], keys: Set[str], cells: Sequence[Cell], device: str) -> bool:
    """Whether the weights of these models fit at once, with half of the memory left for activations and caches."""
    import torch

    on_gpu = device == "cuda"
    memory = torch.cuda.get_device_properties(0).total_memory if on_gpu else host_memory().available
    width = max(ELEMENT_BYTES[cell.precision] for cell in cells)
    return sum(found[key].architecture.parameters for key in keys) * width <= memory / 2


class _Prompts:
    """The prompts of every model and length, made on first use."""

    def __init__(self, settings: PromptSettings, found: dict[str, FoundModel], cells: Sequence[Cell]) -> None:
        self._settings = settings
        self._shapes = dict.fromkeys((c.model.key, c.prompt_tokens, c.new_tokens) for c in cells)
        used = {c.model.key for c in cells}
        self._models = {key: model for key, model in found.items() if key in used}
        self._tokenizers = {
            key: prompt_sources.Tokenizer(t.encode, t.decode, t.chat)
            if (t := model.tokenizer)
            else prompt_sources.BYTES
            for key, model in self._models.items()
        }

    @cached_property
    def speed(self) -> PromptSets:
        """The first P tokens of each passage by the model's own tokenizer, and the next G as the continuation."""
        return {shape: self._take(*shape) for shape in self._shapes}

    @cached_property
    def quality(self) -> PromptSets:
        """The same for a target; a baseline of another tokenizer gets the bytes of the first target's text."""
        return {shape: self._same_bytes(*shape) for shape in self._shapes}

    def _take(self, key: str, prompt_tokens: int, new_tokens: int) -> PromptBatch:
        """Prompts with continuations where possible: a metric that needs one reports that it is missing."""
        own, others = self._tokenizers[key], [t for k, t in self._tokenizers.items() if k != key]
        try:
            return prompt_sources.take(self._settings, own, prompt_tokens, new_tokens, others)
        except BenchError:
            return prompt_sources.take(self._settings, own, prompt_tokens, new_tokens, others, references=False)

    def _same_bytes(self, key: str, prompt_tokens: int, new_tokens: int) -> PromptBatch:
        own = self.speed[key, prompt_tokens, new_tokens]
        target = next((k for k, model in self._models.items() if model.spec.role == "target"), None)
        if target is None or self._models[key].spec.role == "target" or self._same_tokenizer(key, target):
            return own
        source = self._take(target, prompt_tokens, new_tokens)
        # A short text may continue for one tokenizer and not for the other.
        if not all(p.reference_ids for p in (*own.prompts, *source.prompts)):
            return own
        prompts = []
        spans = prompt_sources.scored_spans(source, self._tokenizers[target], self._tokenizers[key])
        for prompt, span in zip(source.prompts, spans, strict=True):
            ids, tokens = span.prompt_ids, span.last - span.first
            prompts.append(Prompt(prompt.index, ids, span.before, span.reference_ids, span.text, scored_tokens=tokens))
        return PromptBatch(tuple(prompts), source.prompt_hash)

    def _same_tokenizer(self, key: str, other: str) -> bool:
        one, two = self._models[key].tokenizer, self._models[other].tokenizer
        return (one and one.content) == (two and two.content)
