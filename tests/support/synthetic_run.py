"""An invented run whose truth is known: latency is exactly a line in K, and likelihoods follow a given curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from dlmbench.types import (
    Cell,
    CellResult,
    Environment,
    Knobs,
    MemoryPass,
    ModelSpec,
    Role,
    Run,
    Sample,
    TextScore,
    TracedPass,
)

LLAMA = ModelSpec("tiny-llama", "llama", "tiny", "baseline")
LLADA = ModelSpec("tiny-llada", "llada", "tiny", "target")
# Likelihood of the sampler in nats a token by steps: whole canvas, and blocks of 16.
NATS = {
    None: {4: 2.07, 8: 1.74, 16: 1.36, 32: 1.16, 64: 1.05},
    16: {4: 3.09, 8: 1.91, 16: 1.41, 32: 1.17, 64: 1.05},
}
NATS_AR = 0.923
ENVIRONMENT = Environment(
    *("cpu", 0, None, None, "3.11", "2.13", "5.23", "CPU", 2, 8 << 30, None, "h", "linux", "0.1.0", None)
)


def cell(model: ModelSpec, knobs: Knobs, batch_size: int = 1, prompt: int = 64, new: int = 64) -> Cell:
    sampler = "autoregressive" if model.role == "baseline" else "masked_diffusion"
    return Cell(model, "native", sampler, knobs, batch_size, prompt, new, "float32", "math", 0, "tiny-64")


def baseline_cell(batch_size: int = 1, prompt: int = 64, new: int = 64, model: ModelSpec = LLAMA) -> Cell:
    return cell(model, (("temperature", 0.0),), batch_size, prompt, new)


def target_cell(
    steps: int, block: int | None = None, batch_size: int = 1, prompt: int = 64, new: int = 64, model: ModelSpec = LLADA
) -> Cell:
    knobs: Knobs = (("block_length", block), ("commit", "low_confidence"), ("steps", steps), ("temperature", 1.0))
    return cell(model, knobs, batch_size, prompt, new)


def sample(of: Cell, index: int, latency_s: float, process_id: int = 7, round_index: int = 0) -> Sample:
    tokens = of.batch_size * of.new_tokens
    return Sample(
        cell_id=of.id,
        index=index,
        is_warmup=False,
        round=round_index,
        process_id=process_id,
        started_at="2026-01-01T00:00:00+00:00",
        clock="wall",
        latency_s=latency_s,
        wall_s=latency_s,
        new_tokens=tokens,
        useful_tokens=None,
        output_bytes=4 * tokens,
        forwards=of.steps or of.new_tokens,
        positions=tokens,
        attention_pairs=tokens,
        wasted_positions=0,
    )


def measured(
    of: Cell, latencies_s: Sequence[float], memory_bytes: int | None = 200 << 20, processes: int = 1
) -> CellResult:
    """A cell with these latencies, dealt to its processes in turn."""
    samples = tuple(sample(of, i, t, process_id=7 + i % processes) for i, t in enumerate(latencies_s))
    # One slow warm-up, which no number may contain.
    warmup = replace(sample(of, 0, 50.0), is_warmup=True)
    memory = MemoryPass(of.id, 7, "rss", peak_process_bytes=memory_bytes) if memory_bytes else None
    first = 0.01 if of.model.role == "baseline" else None
    traced = TracedPass(of.id, 7, first, first, first, first, first, None if first else 0.05, None)
    return CellResult(of, "ok", "", (warmup, *samples), traced, memory, "env")


def failed(of: Cell, status: str = "oom", reason: str = "needs 90 GiB, has 80 GiB") -> CellResult:
    return CellResult(of, status, reason, (), None, None, "env")  # type: ignore[arg-type]


def noisy(centre_s: float, n: int, rng: np.random.Generator, spread: float = 0.01) -> list[float]:
    """Latencies around a median of `centre_s`, skewed to the slow side as real ones are."""
    return list(centre_s * (1 + spread * (rng.gamma(2.0, 1.0, n) - 1.678)))


def per_text(of: Cell, metric: str, values: Sequence[float], weight: float = 64.0) -> list[TextScore]:
    return [TextScore(of.id, metric, i, v * weight, weight) for i, v in enumerate(values)]


def tiny_run(
    batches: Sequence[int] = (1, 4, 8),
    blocks: Sequence[int | None] = (None, 16),
    steps: Sequence[int] = (4, 8, 16, 32, 64),
    lengths: Sequence[tuple[int, int]] = ((64, 64),),
    prompts: int = 64,
    repetitions: int = 20,
    roles: Sequence[Role] = ("baseline", "target"),
    weights: str = "pretrained",
    nats: Mapping[int | None, Mapping[int, float]] = NATS,
    scored: bool = True,
    processes: int = 3,
) -> Run:
    """A run like `make demo`'s in three processes that differ by chance alone.

    Latency: AR 0.15 s, target 0.01 s a step, both growing with batch and length.
    """
    rng = np.random.default_rng(5)
    llama, llada = (replace(m, weights=weights) for m in (LLAMA, LLADA))  # type: ignore[arg-type]
    hardness = rng.normal(0, 0.12, prompts)
    results: list[CellResult] = []
    scores: list[TextScore] = []
    for prompt, new in lengths:
        size = (prompt + new) / 128
        for b in batches:
            if "baseline" in roles:
                of = baseline_cell(b, prompt, new, llama)
                results.append(
                    measured(
                        of, noisy(0.15 * size * b**0.2, repetitions, rng), int((200 + 3 * b) * size) << 20, processes
                    )
                )
                if scored and b == batches[0]:
                    scores += _scores(of, NATS_AR, hardness, rng)
            for block in blocks if "target" in roles else ():
                for k in steps:
                    of = target_cell(k, block, b, prompt, new, llada)
                    results.append(
                        measured(
                            of,
                            noisy(0.01 * k * size * b**0.8, repetitions, rng),
                            int((200 + 9 * b) * size) << 20,
                            processes,
                        )
                    )
                    if scored and b == batches[0]:
                        scores += _scores(of, nats[block][k], hardness, rng)
    cells = tuple(r.cell for r in results)
    return Run("run", "tiny", ENVIRONMENT, cells, (), tuple(results), tuple(scores))


def _scores(of: Cell, nats: float, hardness: np.ndarray, rng: np.random.Generator) -> list[TextScore]:
    n = len(hardness)
    worse = max(nats - NATS_AR, 0.0)
    validity = np.clip(rng.normal(0.95 - 0.3 * worse, 0.05, n), 0, 1)
    return (
        per_text(of, "likelihood", nats + hardness + rng.normal(0, 0.04, n))
        + per_text(of, "oracle_validity", validity, 5.0)
        + per_text(of, "oracle_log_prob", 0.9 + worse + rng.normal(0, 0.1, n))
        + per_text(of, "oracle_truth", 0.86 + hardness)
        + per_text(of, "repetition", np.clip(0.05 + 0.1 * worse + rng.normal(0, 0.02, n), 0, 1), 61.0)
        + per_text(of, "distinct_2", np.clip(0.9 - 0.05 * worse + rng.normal(0, 0.02, n), 0, 1), 63.0)
    )
