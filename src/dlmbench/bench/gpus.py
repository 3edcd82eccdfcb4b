"""All GPUs of one node: a speed pass on each of them, in a thread of its own, into one run folder.

What is dealt out is one process of some cells, by predicted time; the processes of a cell go to different cards where
there are enough, which makes the cards replicates too. Where the host limits the speed (many small kernels, launched
one by one), its work for other GPUs would slow a cell: such cells come last, on one GPU at a time.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

from dlmbench.bench.speed import RunState, SpeedPass
from dlmbench.bench.worker import Placement, Pool
from dlmbench.errors import BenchError, StopRequestedError
from dlmbench.experiment.shards import LoadKey, balance
from dlmbench.measure.protocol import MIN_PER_PROCESS, plan_repetitions
from dlmbench.types import Cell, Plan, PromptSets, ProtocolSettings, Sample


def find_gpus(wanted: str) -> tuple[Placement, ...]:
    """The first GPUs of this node that CUDA_VISIBLE_DEVICES shows. wanted: their number, or "all".

    Raises:
        BenchError: not a number, more than there are, or GPUs of several kinds.
    """
    import torch

    there = torch.cuda.device_count()
    hint = f"This process sees {there} of them (CUDA_VISIBLE_DEVICES counts): write --gpus 1 to {there}, or all"
    if not there:
        hint = "Leave --gpus out: this process sees no GPU (`dlmbench doctor` says why)"
    if wanted != "all" and not (wanted.isdecimal() and 1 <= int(wanted) <= there):
        raise BenchError(f"--gpus {wanted}: no such number of GPUs", hint)
    count = there if wanted == "all" else int(wanted)
    if not count:
        raise BenchError("--gpus all: there is no GPU", hint)
    kinds = Counter((p.name, p.total_memory) for p in map(torch.cuda.get_device_properties, range(count)))
    if len(kinds) > 1:
        found = ", ".join(f"{n} x {name} ({memory / 1e9:.0f} GB)" for (name, memory), n in kinds.items())
        raise BenchError(
            f"--gpus {wanted}: GPUs of several kinds are not one machine: {found}",
            "Choose equal ones with CUDA_VISIBLE_DEVICES",
        )
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [n.strip() for n in listed.split(",")] if listed else [str(i) for i in range(count)]
    return tuple(Placement(names[i], name=f"GPU {i}") for i in range(count))


@dataclass(frozen=True)
class Dealing:
    """What a plan's passes are dealt out by.

    seconds: of a cell in one process, by id. load_s: of loading a model. alone: ids of the cells that run while the
    other GPUs rest.
    """

    seconds: Mapping[str, float]
    load_s: Mapping[LoadKey, float]
    alone: frozenset[str]


def missing_processes(samples: Sequence[Sample], settings: ProtocolSettings) -> int:
    """How many processes of a cell are still to be measured; those with too few repetitions do not count."""
    if plan_repetitions(samples, settings, settings.rounds - 1, None).is_empty:
        return 0
    counts = Counter(s.process_id for s in samples if not s.is_warmup)
    complete = sum(n >= MIN_PER_PROCESS for n in counts.values()) if settings.processes > 1 else 0
    return max(1, settings.processes - complete)


def run_on(whole: SpeedPass, pools: Sequence[Pool], dealing: Dealing, prompts: PromptSets, *, together: bool) -> None:
    """Run everything that is left of `whole` on several devices, each with its own pool of workers.

    Raises:
        BenchError, StopRequestedError: as a pass on one device; what the others had recorded until then is kept.
    """
    assert not whole.processes, "which processes run where is decided here"
    state, settings = whole.state, whole.settings
    state.prompts = prompts
    left = [c for c in whole.plan.cells if c.id not in state.ended]
    missing = {c.id: missing_processes(state.store.samples(c.id), settings) for c in left}
    if measured := tuple(c for c in left if not missing[c.id]):
        SpeedPass(replace(whole.plan, cells=measured), state, pools[0]).run(prompts, together=together)
    left = [c for c in left if missing[c.id]]
    groups = [[c for c in left if (c.id in dealing.alone) is is_alone] for is_alone in (False, True)]
    busy, alone = ([*_passes(whole, group, pools, dealing, missing)] if group else [] for group in groups)
    for part in (*busy, *alone):
        for cell in part.plan.cells:
            state.parts[cell.id] = state.parts.get(cell.id, 0) + 1
    parts_in_turn = [busy, *([part] for part in alone)]
    for number, parts in enumerate(parts_in_turn, start=1):
        state.later_s = sum(part.remaining().seconds for later in parts_in_turn[number:] for part in later)
        _at_once(state, parts, pools, lambda part: part.run(prompts, together=together))


def _passes(
    whole: SpeedPass,
    cells: Sequence[Cell],
    pools: Sequence[Pool],
    dealing: Dealing,
    missing: Mapping[str, int],
) -> list[SpeedPass]:
    """The cells dealt out: one pass for each device that gets any."""
    shards = balance(Plan(tuple(cells)), len(pools), dealing.seconds, dealing.load_s, missing)
    by_id = {c.id: c for c in cells}
    return [
        SpeedPass(
            replace(whole.plan, cells=tuple(by_id[i] for i in shard.cell_ids)),
            whole.state,
            pool,
            dict(zip(shard.cell_ids, shard.processes, strict=True)),
            pool.placement.name,
        )
        for shard, pool in zip(shards, pools, strict=False)
    ]


def _at_once(
    state: RunState, parts: Sequence[SpeedPass], pools: Sequence[Pool], run: Callable[[SpeedPass], None]
) -> None:
    """Run passes at the same time. The first error of one ends them all; a requested stop lets each end by itself."""

    def run_counted(part: SpeedPass) -> None:
        try:
            run(part)
            if part.pool is not pools[0]:  # whose models scoring goes on with
                part.pool.stop()
        finally:
            with state.lock:
                state.active -= 1

    state.active = len(parts)
    stops = []
    with ThreadPoolExecutor(max_workers=max(1, len(parts))) as threads:
        left: set[Future[None]] = {threads.submit(run_counted, part) for part in parts}
        try:
            # A second Ctrl-C comes while the others still end: until all have, this is inside the `try`.
            while left:
                done, left = wait(left, return_when=FIRST_EXCEPTION)
                for error in filter(None, (future.exception() for future in done)):
                    if not isinstance(error, StopRequestedError):
                        raise error
                    stops.append(error)
        except BaseException:
            with state.lock:
                state.is_stopped = True
            for pool in pools:
                pool.kill()
            raise
    state.active = 1
    if stops:
        raise stops[0]
