"""Synthetic machines: latencies whose truth is known, with the faults that real ones have.

The truth about a cell is its median latency in an average process. A process moves it by a factor of its own, and the
repetitions within a process scatter around that. Shape legend: P processes, R repetitions.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dlmbench.types import Cell, CellResult, Environment, Knobs, ModelSpec, Run, Sample

FloatArray = NDArray[np.float64]

LLAMA = ModelSpec("llama", "llama", "synthetic", "baseline", content="a")
LLADA = ModelSpec("llada", "llada", "synthetic", "target", content="b")
ENVIRONMENT = Environment("gpu", 1, "1", "1", "3", "2", "5", "cpu", 2, 1 << 30, None, "host", "linux", "1", None)
# Median and standard deviation of the gamma distribution of shape 2 that skewed repetitions follow.
_GAMMA_MEDIAN, _GAMMA_SD = 1.678, 2**0.5
# Cells of a kind that are unequally noisy take these factors in turn.
_UNEQUAL = (0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Machine:
    """How the latencies of a cell vary; all sizes are on the log scale, so 0.01 is 1%.

    process_sd: between processes; in each process one effect is common to the cells of a model, or each cell has one.
    unequal: cells differ in noise by up to a factor of 8; is_one_loud: one cell of each model by a factor of 20.
    repetition_sd: within a process, correlated from one
    repetition to the next by `correlation`. modes: a process is in one of two modes that are this far apart.
    drift: how much slower the last repetition of a process is than the first. throttled: the share of processes that
    lose a tenth of their clock from some repetition on; is_recorded: whether the counter shows it.
    """

    process_sd: float = 0.005
    effects: Literal["of the model", "of each cell"] = "of the model"
    unequal: bool = False
    is_one_loud: bool = False
    repetition_sd: float = 0.003
    is_skewed: bool = False
    correlation: float = 0.0
    modes: float = 0.0
    drift: float = 0.0
    throttled: float = 0.0
    is_recorded: bool = True

    def measure(
        self, truth_s: Mapping[Cell, float], processes: int, repetitions: int, rng: np.random.Generator
    ) -> tuple[CellResult, ...]:
        """Every cell of `truth_s` (true seconds) in `processes` processes of each model."""
        results = []
        models = sorted({c.model.key for c in truth_s})
        for m, model in enumerate(models):
            common_P = self._process(processes, rng)
            throttle_P = np.where(
                rng.random(processes) < self.throttled, rng.integers(0, repetitions, processes), repetitions
            )
            factors = itertools.cycle(_UNEQUAL if self.unequal else (1.0,))
            if self.is_one_loud:
                factors = itertools.chain([20.0], factors)
            for cell in (c for c in truth_s if c.model.key == model):
                factor = next(factors)
                own_P = common_P if self.effects == "of the model" else self._process(processes, rng)
                log_PR = own_P[:, None] * factor + self._repetitions(processes, repetitions, rng) * factor
                late_PR = np.arange(repetitions) >= throttle_P[:, None]
                latency_PR = truth_s[cell] * np.exp(log_PR + 0.1 * late_PR)
                results.append(_result(cell, latency_PR, late_PR & self.is_recorded, first_process=100 * (m + 1)))
        return tuple(results)

    def _process(self, processes: int, rng: np.random.Generator) -> FloatArray:
        return rng.normal(0, self.process_sd, processes) + self.modes * rng.choice((-0.5, 0.5), processes)

    def _repetitions(self, processes: int, repetitions: int, rng: np.random.Generator) -> FloatArray:
        noise_PR = rng.normal(size=(processes, repetitions))
        if self.is_skewed:
            noise_PR = (rng.gamma(2.0, 1.0, (processes, repetitions)) - _GAMMA_MEDIAN) / _GAMMA_SD
        for r in range(1, repetitions if self.correlation else 0):
            fresh = (1 - self.correlation**2) ** 0.5
            noise_PR[:, r] = self.correlation * noise_PR[:, r - 1] + fresh * noise_PR[:, r]
        drift_R = self.drift * (np.arange(repetitions) / max(1, repetitions - 1) - 0.5)
        return self.repetition_sd * noise_PR + drift_R


def _result(cell: Cell, latency_PR: FloatArray, throttled_PR: NDArray[np.bool_], first_process: int) -> CellResult:
    forwards = cell.steps or cell.new_tokens
    samples = tuple(
        Sample(
            cell_id=cell.id,
            index=p * latency_PR.shape[1] + r,
            is_warmup=False,
            round=0,
            process_id=first_process + p,
            started_at="",
            clock="wall",
            latency_s=latency_s,
            wall_s=latency_s,
            new_tokens=cell.batch_size * cell.new_tokens,
            useful_tokens=None,
            output_bytes=None,
            forwards=forwards,
            positions=1000 * forwards,
            attention_pairs=1,
            wasted_positions=0,
            throttle="thermal" if throttled_PR[p, r] else "",
            other_processes=0,
        )
        for p, row in enumerate(latency_PR.tolist())
        for r, latency_s in enumerate(row)
    )
    return CellResult(cell, "ok", "", samples, traced=None, memory=None, environment_id=ENVIRONMENT.id)


def cell(model: ModelSpec, batch_size: int = 1, steps: int | None = None, block: int | None = None) -> Cell:
    """A cell of one model; a target's has a step count."""
    knobs: Knobs = (("steps", steps), ("block_length", block)) if steps else (("temperature", 0.0),)
    sampler = "masked_diffusion" if steps else "autoregressive"
    return Cell(model, "native", sampler, knobs, batch_size, 64, 256, "bfloat16", "flash", 0, "set")


def run_of(results: Sequence[CellResult], name: str = "run") -> Run:
    """A run folder with these results and nothing else."""
    return Run(name, name, ENVIRONMENT, tuple(r.cell for r in results), (), tuple(results))
