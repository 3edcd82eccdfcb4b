"""What changes generated texts and likelihoods besides the model: batch size, process, engine, attention, precision.

    python benchmarks/determinism.py             # measure on this device; 2 minutes on a CPU, 3 on a GPU
    python benchmarks/determinism.py --page      # the tables of docs/reliability.md, from the recorded CSVs alone

The embedded trained pair generates the same prompts in every setting, each engine, precision and kernel in two fresh
processes. Processes run side by side: no time is measured. Each row of the CSV compares one setting with the one that
differs from it in a single respect.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tables import markdown, write_csv, write_part

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs/study/instrument"
PAGE = ROOT / "docs/reliability.md"
METRICS = ("oracle_validity", "oracle_log_prob", "repetition", "distinct_2")
# What may vary, and the value that the others are compared with; for precision, with the first that was measured.
REFERENCES = {"batch_size": 1, "process": 0, "engine": "native", "attention": "math", "precision": "float32"}
TITLES = {
    "batch_size": "batch size, against 1",
    "process": "process",
    "engine": "engine, against native",
    "attention": "attention kernel, against math",
    "precision": "precision, against float32",
}


@dataclass(frozen=True)
class Setting:
    """One way to generate the prompts. case: the model and its knobs, as text. process: 0 or 1."""

    case: str
    engine: str
    precision: str
    attention: str
    batch_size: int
    process: int


@dataclass(frozen=True)
class Outcome:
    """What a setting gave. failure: why it could not run, "" if it did.

    tokens: new tokens of each prompt. metrics: value by name. nats: minus log p of each reference, over `weights`
    tokens. ties: share of masked positions whose confidence equals that of another one in the same step, before it is
    decided which are committed. ties_at_limit: share of steps in which the last committed position ties with one
    that is not.
    """

    setting: Setting
    failure: str = ""
    tokens: tuple[tuple[int, ...], ...] = ()
    metrics: Mapping[str, float] | None = None
    nats: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()
    ties: float | None = None
    ties_at_limit: float | None = None


# ---------------------------------------------------------------- comparisons


def changed(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> tuple[float, float]:
    """(share of rows that differ anywhere, share of tokens that differ) of two sets of texts of equal shape."""
    pairs = [(a, b) for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True)]
    rows = sum(tuple(x) != tuple(y) for x, y in zip(ours, theirs, strict=True))
    return rows / len(ours), sum(a != b for a, b in pairs) / len(pairs)


def likelihood_error(nats: Sequence[float], weights: Sequence[float]) -> float:
    """Standard error over prompts of sum(nats) / sum(weights), by linearization."""
    mean, n = sum(nats) / sum(weights), len(nats)
    residuals = [value - mean * weight for value, weight in zip(nats, weights, strict=True)]
    return math.sqrt(n / (n - 1) * math.fsum(r * r for r in residuals)) / sum(weights)


def compare(varied: str, reference: Outcome, other: Outcome) -> dict[str, Any]:
    """One row of the CSV: what changes from `reference` to `other`, which differ in `varied`."""
    rows, tokens = changed(reference.tokens, other.tokens)
    row: dict[str, Any] = {
        **asdict(other.setting),
        "varied": varied,
        "against": getattr(reference.setting, varied),
        "prompts": len(other.tokens),
        "rows_changed": rows,
        "tokens_changed": tokens,
    }
    ours, theirs = other.metrics or {}, reference.metrics or {}
    row |= {
        f"{name}_change": ours[name] - theirs[name] if name in ours and name in theirs else None for name in METRICS
    }
    mean_change = largest = error = None
    if other.nats and reference.nats:
        weight = sum(other.weights)
        mean_change = (sum(other.nats) - sum(reference.nats)) / weight
        triples = zip(other.nats, reference.nats, other.weights, strict=True)
        largest = max(abs(a - b) / w for a, b, w in triples)
        error = likelihood_error(reference.nats, reference.weights)
    row |= {
        "likelihood_change": mean_change,
        "likelihood_largest_change": largest,
        "likelihood_stderr": error,
        "ties": other.ties,
        "ties_at_limit": other.ties_at_limit,
        "failure": "",
    }
    return row


def comparisons(outcomes: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    """Every outcome against each one that differs from it in a single respect and has the reference value there."""
    known = {o.setting: o for o in outcomes if not o.failure}
    for outcome in outcomes:
        if outcome.failure:
            row = compare("process", replace(outcome, tokens=((0,),)), replace(outcome, tokens=((0,),)))
            kept = asdict(outcome.setting)
            yield {k: kept.get(k) for k in row} | {"failure": outcome.failure}
            continue
        for varied, value in REFERENCES.items():
            reference = known.get(replace(outcome.setting, **{varied: value}))
            # A second process only says whether a process changes anything.
            if reference is None or reference is outcome or (outcome.setting.process and varied != "process"):
                continue
            yield compare(varied, reference, outcome)


# ---------------------------------------------------------------- one process


@dataclass(frozen=True)
class Job:
    """What one fresh process runs: one engine in one precision with one attention kernel."""

    engine: str
    precision: str
    attention: str
    process: int
    device: str
    batch_sizes: tuple[int, ...]
    steps: tuple[int, ...]
    temperatures: tuple[float, ...]
    prompts: int
    length: int


def outcomes_of(job: Job) -> Iterator[Outcome]:
    """Generate and score in every setting of a job. The second process only generates, and not at batch size 1."""
    import torch

    from dlmbench import models
    from dlmbench.errors import BenchError
    from dlmbench.prompts import take
    from dlmbench.types import ModelSpec, PromptSettings

    torch.set_num_threads(1)  # several jobs run at a time
    for key in ("ar", "llada"):
        spec = ModelSpec(key, "", f"embedded:{key}", "target")
        try:
            model = models.load(
                spec, engine=job.engine, precision=job.precision, attention=job.attention, device=job.device
            )
            assert model.tokenizer is not None
            batch = take(PromptSettings("tiny", job.prompts), model.tokenizer, job.length, job.length)
            for temperature in job.temperatures:
                for chosen in [{"steps": k} for k in job.steps] if key == "llada" else [{}]:
                    knobs = {"temperature": temperature, **chosen}
                    for rows in job.batch_sizes if job.process == 0 else job.batch_sizes[1:]:
                        yield _outcome(job, model, knobs, batch, rows)
        except (BenchError, RuntimeError) as error:
            yield failed(job, "LLaMA" if key == "ar" else "LLaDA", str(error).split("\n")[0])


def failed(job: Job, case: str, reason: str) -> Outcome:
    """The outcome of what could not run."""
    return Outcome(Setting(case, job.engine, job.precision, job.attention, 1, job.process), failure=reason)


def _outcome(job: Job, model: Any, chosen: Mapping[str, Any], every: Any, rows: int) -> Outcome:
    from dlmbench import registry
    from dlmbench.bench.generate import resolve_knobs, sampler_for
    from dlmbench.sampling.generator import generator_for
    from dlmbench.types import Cell, MetricRequest, PromptBatch, StoredGeneration, Texts

    sampler = sampler_for(model.spec.family, None)
    is_diffusion = registry.load("samplers", sampler).PARADIGM == "diffusion"
    knobs = resolve_knobs(sampler, chosen, job.engine, job.length)
    cell = Cell(
        model=model.spec,
        engine=job.engine,
        sampler=sampler,
        knobs=tuple(sorted(knobs.items())),
        batch_size=rows,
        prompt_tokens=job.length,
        new_tokens=job.length,
        precision=job.precision,
        attention=job.attention,
        seed=0,
        prompts="tiny",
    )
    generator = generator_for(model, sampler)
    tokens: list[tuple[int, ...]] = []
    tied = masked = at_limit = forwards = 0
    for first in range(0, len(every.prompts), rows):
        batch = PromptBatch(every.prompts[first : first + rows], every.prompt_hash)
        generation = generator.generate(batch, job.length, knobs, 0, trace=is_diffusion)
        tokens += generation.tokens_BG
        # Ties are counted in the largest batches only: the count repeats every forward.
        if is_diffusion and job.process == 0 and rows == job.batch_sizes[-1]:
            counts = ties(model.language_model, batch, generation, knobs)
            tied, masked = tied + counts[0], masked + counts[1]
            at_limit, forwards = at_limit + counts[2], forwards + counts[3]
    case = "LLaMA" if not is_diffusion else f"LLaDA K={knobs['steps']}"
    if knobs["temperature"]:
        case += f" T={knobs['temperature']}"
    outcome = Outcome(
        Setting(case, job.engine, job.precision, job.attention, rows, job.process),
        tokens=tuple(tokens),
        ties=tied / masked if masked else None,
        ties_at_limit=at_limit / forwards if forwards else None,
    )
    if job.process:
        return outcome
    stored = tuple(
        StoredGeneration(cell.id, p.index, every.prompt_hash, ids, model.tokenizer.decode(ids), 0, None, None)
        for p, ids in zip(every.prompts, tokens, strict=True)
    )
    texts = Texts(cell, every.prompts, stored, rows=rows, device=job.device)
    metrics = {name: _value(registry.load("metrics", name).score(texts)) for name in METRICS}
    # A likelihood does not depend on the temperature, and one K is enough for it.
    scored: list[Any] = []
    if not knobs["temperature"] and knobs.get("steps") in (None, job.steps[0]):
        request = MetricRequest("likelihood", (("orders", 2),))
        module = registry.load("metrics", "likelihood")
        scored = list(module.score(replace(texts, model=model.language_model, request=request)))
    nats, weights = tuple(s.total for s in scored), tuple(s.weight for s in scored)
    return replace(outcome, metrics=metrics, nats=nats, weights=weights)


def _value(scores: Iterable[Any]) -> float:
    """The aggregate of a metric over texts; a text without a value is left out."""
    known = [s for s in scores if hasattr(s, "total")]
    return math.fsum(s.total for s in known) / math.fsum(s.weight for s in known)


def ties(model: Any, batch: Any, generation: Any, knobs: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """(tied masked positions, masked positions, steps with a tie at the limit, steps) over all rows of a generation.

    Every step is run again on the canvas as the trace tells it, in the same arithmetic. The confidence is that of
    low_confidence; one block, no cache.
    """
    import torch

    from dlmbench.sampling.denoise import LogitsChunk, chosen_probability, padded
    from dlmbench.sampling.rng import choose_tokens

    at_BG = torch.tensor(generation.trace.committed_at_BG, device=model.device)
    new_BG = torch.tensor(generation.tokens_BG, device=model.device)
    mask_id, counts = model.architecture.mask_id, torch.zeros(3, dtype=torch.int64, device=model.device)
    positions_G = torch.arange(new_BG.shape[1], device=model.device)
    prompt_index_B = torch.tensor(batch.indices, device=model.device)
    with torch.inference_mode():
        tokens_BP, attention_mask_BP = padded(batch, model)
        assert attention_mask_BP is None, "prompts of one length"
        first = tokens_BP.shape[1]
        for forward in range(1, generation.forwards + 1):
            masked_BG, commit_BG = at_BG >= forward, at_BG == forward
            canvas_BN = torch.cat([tokens_BP, new_BG.masked_fill(masked_BG, mask_id)], 1)
            hidden_BND = model.forward(canvas_BN)
            logits_BGV = model.logits(hidden_BND, first, canvas_BN.shape[1])
            step_1 = torch.tensor([forward - 1], device=model.device)
            temperature = float(knobs["temperature"])
            chosen_BG = choose_tokens(logits_BGV, temperature, 0, prompt_index_B, step_1, positions_G, never=mask_id)
            chunk = LogitsChunk(logits_BGV, chosen_BG, 0, step_1, prompt_index_B, positions_G)
            confidence_BG = chosen_probability(chunk, knobs)
            equal_BGG = (confidence_BG[:, :, None] == confidence_BG[:, None, :]) & masked_BG[:, None, :]
            tied_BG = masked_BG & (equal_BGG.sum(-1) > 1)
            crossing_BG = commit_BG & (equal_BGG & ~commit_BG[:, None, :]).any(-1)
            counts += torch.stack([tied_BG.sum(), masked_BG.sum(), crossing_BG.any(-1).sum()])
    tied, masked, at_limit = counts.tolist()
    return tied, masked, at_limit, generation.forwards * len(generation.tokens_BG)


# ---------------------------------------------------------------- all processes


def run_job(job: Job) -> list[Outcome]:
    """The outcomes of a job, from a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "outcomes.jsonl"
        command = [sys.executable, __file__, "--job", json.dumps(asdict(job)), str(path)]
        started = time.monotonic()
        code = subprocess.run(command, check=False, env=os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1"}).returncode
        what = f"{job.engine} {job.precision} {job.attention} process {job.process}"
        sys.stderr.write(f"{what}: {time.monotonic() - started:.0f} s, exit code {code}\n")
        found = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            values = json.loads(line)
            values["tokens"] = tuple(map(tuple, values["tokens"]))
            found.append(Outcome(**values | {"setting": Setting(**values["setting"])}))
        return found + ([failed(job, "", f"the process ended with exit code {code}")] if code else [])


def run_in_this_process(text: str, path: Path) -> None:
    """Run the job that `text` describes and write its outcomes, one a line."""
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items()}
    with path.open("w", encoding="utf-8") as file:
        for outcome in outcomes_of(Job(**values)):
            file.write(json.dumps(asdict(outcome)) + "\n")


def measure(arguments: argparse.Namespace) -> None:
    """Run all processes, and write the CSV and a JSON with what it was measured on."""
    import torch

    from dlmbench.bench.generate import default_device

    device = arguments.device or default_device()
    on_gpu = device != "cpu"
    name = torch.cuda.get_device_name() if on_gpu else "CPU"
    # Defaults that fit the device: a CPU gets half the length and prompts.
    length = arguments.length or (64 if on_gpu else 32)
    jobs = [
        Job(
            engine=engine,
            precision=precision,
            process=process,
            device=device,
            attention=attention,
            batch_sizes=tuple(sorted(arguments.batch_size)),
            steps=tuple(arguments.steps or ((length // 2, length) if on_gpu else (length // 2,))),
            temperatures=tuple(arguments.temperature),
            prompts=arguments.prompts or (64 if on_gpu else 32),
            length=length,
        )
        for process in (0, 1)
        for precision in arguments.precision or (("float32", "bfloat16") if on_gpu else ("float32",))
        for engine in arguments.engine
        for attention in arguments.attention
    ]
    started = time.monotonic()
    with ThreadPoolExecutor(arguments.workers or (12 if on_gpu else 2)) as pool:
        outcomes = [outcome for found in pool.map(run_job, jobs) for outcome in found]
    rows = list(comparisons(outcomes))
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower().removeprefix("nvidia "))
    path = arguments.output / f"determinism-{slug}.csv"
    write_csv(path, rows)
    about = {
        "device": name,
        "torch": torch.__version__,
        "prompts": jobs[0].prompts,
        "prompt_tokens": length,
        "new_tokens": length,
        "seconds": round(time.monotonic() - started),
        "measured": [
            {**asdict(o.setting), "failure": o.failure, "ties": o.ties, "ties_at_limit": o.ties_at_limit}
            | {name: (o.metrics or {}).get(name) for name in METRICS}
            | {"likelihood": sum(o.nats) / sum(o.weights) if o.nats else None}
            for o in outcomes
        ],
    }
    path.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{path}\n")


# ---------------------------------------------------------------- the page


def page_table(rows: Sequence[Mapping[str, str]]) -> str:
    """What varies, by precision, engine and model: the largest change over the other settings."""

    def largest(group: Sequence[Mapping[str, str]], name: str) -> float | None:
        return max((abs(float(r[name])) for r in group if r[name] not in ("", None)), default=None)

    def shown(value: float | None, form: str) -> str:
        return "" if value is None else "0" if value == 0 else format(value, form)

    groups: dict[tuple[str, ...], list[Mapping[str, str]]] = {}
    for row in rows:
        if row["varied"]:
            key = (row["varied"], row["precision"], row["engine"], row["case"])
            groups.setdefault(key, []).append(row)
    lines = []
    for (varied, precision, engine, case), group in sorted(
        groups.items(), key=lambda g: list(REFERENCES).index(g[0][0])
    ):
        errors = [float(r["likelihood_stderr"]) for r in group if r["likelihood_stderr"]]
        lines.append(
            [
                TITLES[varied],
                precision,
                engine,
                case,
                shown(largest(group, "rows_changed"), ".0%"),
                shown(largest(group, "tokens_changed"), ".1%"),
                *(shown(largest(group, f"{m}_change"), ".3f") for m in METRICS),
                shown(largest(group, "likelihood_change"), ".1e"),
                shown(largest(group, "likelihood_largest_change"), ".1e"),
                shown(statistics.fmean(errors) if errors else None, ".3f"),
            ]
        )
    header = ["varied", "precision", "engine", "model", "rows", "tokens", *(m.replace("_", " ") for m in METRICS)]
    table = markdown([*header, "nats/token", "of one prompt", "standard error"], lines)
    tied: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for r in rows:
        if r["ties"]:
            key3 = (r["precision"], r["engine"], r["case"])
            tied.setdefault(key3, []).append((float(r["ties"]), float(r["ties_at_limit"])))
    lines = [[*key, f"{max(t for t, _ in v):.2%}", f"{max(t for _, t in v):.2%}"] for key, v in tied.items()]
    table += "\n\n" + markdown(["precision", "engine", "model", "tied positions", "steps decided by a tie"], lines)
    failed = sorted({f"{r['engine']}, {r['precision']}, {r['attention']}" for r in rows if r["failure"]})
    return table + (f"\n\nCannot run: {'; '.join(failed)}." if failed else "")


def write_page(folder: Path, page: Path) -> None:
    """Write the tables of every recorded device into docs/reliability.md."""
    parts = []
    for path in sorted(folder.glob("determinism-*.csv")):
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        with path.open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        lengths = f"{about['prompt_tokens']} + {about['new_tokens']} tokens"
        parts.append(f"### {about['device']}\n\n{about['prompts']} prompts of {lengths}.\n\n{page_table(rows)}")
    write_part(page, "determinism", "\n\n".join(parts))


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="write the tables of docs/reliability.md")
    parser.add_argument("--device", help="cuda or cpu (default: the GPU where there is one)")
    parser.add_argument("--engine", nargs="+", default=["native", "hf"])
    parser.add_argument("--precision", nargs="+", help="default: float32, and bfloat16 on a GPU")
    parser.add_argument("--attention", nargs="+", default=["math", "flash", "efficient"])
    parser.add_argument("--batch-size", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--steps", nargs="+", type=int, help="default: half the new tokens; on a GPU also all")
    parser.add_argument("--temperature", nargs="+", type=float, default=[0.0], help="the demo's is 0")
    parser.add_argument("--prompts", type=int, help="default: 64 on a GPU, 32 on a CPU")
    parser.add_argument("--length", type=int, help="prompt tokens, and new tokens (default: 64 on a GPU, 32 on a CPU)")
    parser.add_argument("--workers", type=int, help="processes at a time (default: 12 on a GPU, 2 on a CPU)")
    parser.add_argument("--output", type=Path, default=FOLDER)
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        run_in_this_process(arguments.job[0], Path(arguments.job[1]))
    elif arguments.page:
        write_page(arguments.output, PAGE)
    else:
        measure(arguments)


if __name__ == "__main__":
    main()
