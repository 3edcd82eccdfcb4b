"""The two engines side by side on one GPU: 8B shapes with random weights, in parts.

    python benchmarks/engines.py --output FOLDER                # all parts, each on a GPU of its own if there are many
    python benchmarks/engines.py --output FOLDER --part cached  # one of them on one GPU, in at most LIMIT_S seconds
    python benchmarks/engines.py --page FOLDER/engines.json     # docs/performance.md on stdout, from its files alone

A part first measures the device's own ceilings (one large matrix product, one large copy), then the same cells with
each engine in turn, each a whole generation divided by its forwards or tokens; last, native's again in a second
process. Compare results within one part only: two hosts with the same GPU differ by a third where kernel launches
dominate, two GPUs of one host by one per cent.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlmbench.types import LanguageModel, PromptBatch

LIMIT_S = 450  # for a part, its second process included
CELL = ("what", "engine", "attention", "batch", "prompt", "new")
# (B, P, G) of LLaDA without a cache.
CANVASES = (
    (1, 64, 64),
    (1, 128, 128),
    (1, 256, 256),
    (1, 512, 512),
    (1, 1024, 1024),
    (8, 256, 256),
    (8, 512, 512),
    (32, 256, 256),
    (32, 512, 512),
    (64, 512, 512),
)
# The shapes with the largest share of attention, also measured with cuDNN's kernel.
CUDNN_CANVASES = ((1, 1024, 1024), (8, 512, 512))
# (cache, B, P, G): a later forward of the middle block of 32; with hf at batch 1 alone.
CACHED = (
    *((cache, 1, length, length) for cache in ("none", "prefix", "dual") for length in (256, 512)),
    *((cache, batch, 894, 256) for cache in ("prefix", "dual") for batch in (1, 4, 8, 16, 32)),
)
BLOCK = 32
# (B, P, G) of LLaMA's generation; G = 1 is a prefill.
DECODED = ((1, 64, 128), (1, 512, 128), (8, 512, 128), (32, 512, 128), (64, 512, 128))
PREFILLED = ((1, 128), (1, 256), (1, 512), (1, 2048), (8, 512))
PROFILED = ((1, 64, 64), (1, 512, 512), (8, 512, 512))
# Shares of the floor held that were set before the engine had its form of now.
TARGETS = {"prefix": 0.8, "dual": 0.8, "step": 0.75, "decode": 0.85, "prefill": 0.8}
# What a kernel does, by parts of its name; the first match counts.
KERNELS = (
    ("attention", ("flash", "fmha", "cudnn")),
    ("matrix products", ("nvjet", "gemm", "cutlass", "splitkreduce", "gemv")),
    ("norms", ("rsqrt",)),
    ("gate", ("silu",)),
    ("rotation and cache", ("split_with_sizes", "index_copy")),
    ("choice and commit", ("max", "softmax", "sort", "reduce", "scatter", "gather", "exp", "where", "sum")),
)


@dataclass
class Row:
    """One cell with one engine. ms: of a forward (diffusion), of a token after the prefill, or of a prefill.

    Measured under load, one generation after another; rested_ms is one generation after a second of rest, when the
    device may clock higher. With a cache, of a block's later forwards; its first is like one without a cache. again_ms:
    the same in a second process. kernels: name, ms and calls per forward, the longest first.
    """

    what: str
    engine: str
    attention: str
    batch: int
    prompt: int
    new: int
    ms: float
    repetitions: list[float] = field(default_factory=list)
    rested_ms: float | None = None
    first_call_s: float | None = None
    peak_over_weights_gib: float | None = None
    forwards: int | None = None
    again_ms: float | None = None
    kernels: list[tuple[str, float, float]] = field(default_factory=list)


def timed(run: Callable[[], object]) -> float:
    """Milliseconds of one call, by CUDA events."""
    import torch

    torch.cuda.synchronize()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end))


def ceilings() -> dict[str, float]:
    """Matrix rate of an 8192^3 product and bytes moved by a 4 GiB copy, medians of ten; the former also under load.

    Under load: 25 measurements of a tenth of a second each, the median of the last ten.
    """
    import torch

    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(2**32, device="cuda", dtype=torch.uint8).random_()
    target = torch.empty_like(source)
    for _ in range(3):
        _ = a @ b
        target.copy_(source)
    product = statistics.median(timed(lambda: a @ b) for _ in range(10))
    copy = statistics.median(timed(lambda: target.copy_(source)) for _ in range(10))
    products = 100
    loaded = [timed(lambda: [a @ b for _ in range(products)]) / products for _ in range(25)]
    return {
        "matrix_flops": 2 * 8192**3 / product * 1e3,
        "matrix_flops_under_load": 2 * 8192**3 / statistics.median(loaded[-10:]) * 1e3,
        "bandwidth": 2 * 2**32 / copy * 1e3,
    }


def batch_of(rows: int, tokens: int) -> PromptBatch:
    """Prompts of random tokens."""
    import torch

    from dlmbench.types import Prompt, PromptBatch

    generator = torch.Generator().manual_seed(rows * 100_003 + tokens)
    drawn = torch.randint(10, 100_000, (rows, tokens), generator=generator).tolist()
    return PromptBatch(tuple(Prompt(i, tuple(row)) for i, row in enumerate(drawn)), "random")


def load(engine: str, family: str, attention: str) -> LanguageModel:
    """An 8B model with random weights."""
    from dlmbench import registry
    from dlmbench.types import ModelSpec

    spec = ModelSpec(family, family, "8b", "target", weights="random")
    model: LanguageModel = registry.load("engines", engine).load(
        spec, None, precision="bfloat16", attention=attention, device="cuda"
    )
    return model


def diffusion_knobs(engine: str, new: int, **chosen: Any) -> dict[str, Any]:
    """Settled knobs of the masked-diffusion sampler."""
    from dlmbench import registry

    sampler = registry.load("samplers", "masked_diffusion")
    knobs = {k.name: k.default for k in registry.knobs_of("masked_diffusion", chosen).values()} | chosen
    settled: dict[str, Any] = sampler.resolve(knobs, engine, new)
    return settled


def measure(row: Row, model: LanguageModel, run: Callable[[], int], repetitions: int, rest: bool = False) -> Row:
    """Fill a row: the first call without any graphs, with its peak; then `repetitions`; then one after a rest."""
    import torch

    model.reset_graphs()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    row.forwards = run()
    torch.cuda.synchronize()
    row.first_call_s = time.perf_counter() - began
    row.peak_over_weights_gib = (torch.cuda.max_memory_allocated() - before) / 2**30
    row.repetitions = [timed(run) / row.forwards for _ in range(repetitions)]
    row.ms = statistics.median(row.repetitions)
    if rest:
        time.sleep(1.0)
        row.rested_ms = timed(run) / row.forwards
    log(f"{row.what:8} {row.engine:6} {row.attention:5} B={row.batch} P={row.prompt} G={row.new}: {row.ms:.3f} ms")
    return row


def diffusion(
    engines: dict[str, LanguageModel], attention: str, canvases: tuple[tuple[int, int, int], ...]
) -> list[Row]:
    """LLaDA's rows without a cache, engines in turn."""
    from dlmbench import registry

    sampler, rows = registry.load("samplers", "masked_diffusion"), []
    for batch, prompt, new in canvases:
        for engine, model in engines.items():
            prompts, steps = batch_of(batch, prompt), 8 if batch == 1 else 4
            knobs = diffusion_knobs(engine, new, steps=steps)
            run = lambda: sampler.generate(model, prompts, new, knobs).forwards  # noqa: B023, E731
            row = Row("step", engine, attention, batch, prompt, new, 0.0)
            rows.append(measure(row, model, run, 3 if batch == 1 else 2 if batch == 8 else 1, rest=True))
            if engine == "native":
                with kernel_table(row, steps, start=True):
                    run()
    return rows


@contextmanager
def kernel_table(row: Row, forwards: int, start: bool = False) -> Iterator[Any]:
    """A profiler, for the caller to start or started; afterwards, the row has its kernels."""
    import torch
    from torch.profiler import ProfilerActivity

    profiler = torch.profiler.profile(activities=[ProfilerActivity.CUDA])
    if start:
        profiler.start()
    yield profiler
    torch.cuda.synchronize()
    profiler.stop()
    events = sorted(profiler.key_averages(), key=lambda e: -e.self_device_time_total)
    row.kernels = [(e.key[:100], e.self_device_time_total / forwards / 1e3, e.count / forwards) for e in events[:12]]


def cached(row: Row, model: LanguageModel) -> Row:
    """A row of the forwards after the first of the middle block, each timed by events; the first pass captures them."""
    import torch

    from dlmbench import registry
    from dlmbench.sampling.denoise import Canvas, DenoisingLoop, padded

    middle = row.new // BLOCK // 2 * BLOCK
    knobs = diffusion_knobs(row.engine, row.new, cache=row.what, block_length=BLOCK, steps=row.new)
    needs = frozenset({"kv_cache"} if registry.load("cache", row.what).USES_KV_CACHE else ())
    with torch.inference_mode():
        model.reset_graphs()
        torch.cuda.empty_cache()
        batch = batch_of(row.batch, row.prompt)
        tokens_BP, _ = padded(batch, model)
        runner = model.graph_runner("cached", lambda: Canvas(model, (row.batch, row.prompt, row.new), needs))

        def denoise(steps: int, on_step: Callable[[int], None]) -> None:
            runner.state.reset(tokens_BP, None, batch)
            loop = DenoisingLoop(model, runner, knobs, 0, on_step)
            loop.denoise_block(slice(middle, middle + BLOCK), [1] * steps)
            torch.cuda.synchronize()

        for repetition in range(3):
            ends: list[torch.cuda.Event] = []

            def on_step(forwards: int) -> None:
                ends.append(torch.cuda.Event(enable_timing=True))  # noqa: B023
                ends[-1].record()  # noqa: B023

            denoise(BLOCK // 2, on_step)
            if repetition:
                row.repetitions += [a.elapsed_time(b) for a, b in itertools.pairwise(ends)]
        if row.engine == "native":
            with kernel_table(row, 4) as profiler:
                denoise(5, lambda forwards: profiler.start() if forwards == 1 else None)
    row.ms, row.forwards = statistics.median(row.repetitions), len(row.repetitions)
    log(f"{row.what:8} {row.engine:6} {row.attention:5} B={row.batch} P={row.prompt} G={row.new}: {row.ms:.3f} ms")
    return row


def autoregression(engines: dict[str, LanguageModel], attention: str) -> list[Row]:
    """LLaMA's rows: prefills, and decoding without its prefill."""
    from dlmbench import registry

    sampler, rows = registry.load("samplers", "autoregressive"), []

    def run(model: LanguageModel, prompts: PromptBatch, new: int) -> int:
        sampler.generate(model, prompts, new, {"temperature": 0.0})
        return 1

    for engine, model in engines.items():
        for batch, prompt in PREFILLED:
            prompts = batch_of(batch, prompt)
            row = Row("prefill", engine, attention, batch, prompt, 1, 0.0)
            rows.append(measure(row, model, lambda: run(model, prompts, 1), 3))  # noqa: B023
            if engine == "native":
                with kernel_table(row, 1, start=True):
                    run(model, prompts, 1)
        for batch, prompt, new in DECODED:
            prompts = batch_of(batch, prompt)
            prefill_row = Row("prefill", engine, attention, batch, prompt, 1, 0.0)
            prefill = measure(prefill_row, model, lambda: run(model, prompts, 1), 2).ms  # noqa: B023
            row = Row("decode", engine, attention, batch, prompt, new, 0.0)
            measure(row, model, lambda: run(model, prompts, new), 2)  # noqa: B023
            row.repetitions = [(whole - prefill) / (new - 1) for whole in row.repetitions]
            row.ms = statistics.median(row.repetitions)
            rows.append(row)
            if engine == "native":
                with kernel_table(row, new - 1, start=True):
                    run(model, prompts, new)
    return rows


def profile(model: LanguageModel) -> list[dict[str, Any]]:
    """Device time of a native step by kind of kernel, and the step's time with the gaps between kernels."""
    import torch
    from torch.profiler import ProfilerActivity

    from dlmbench import registry

    sampler, found = registry.load("samplers", "masked_diffusion"), []
    for batch, prompt, new in PROFILED:
        prompts, knobs = batch_of(batch, prompt), diffusion_knobs("native", new, steps=8)
        run = lambda: sampler.generate(model, prompts, new, knobs)  # noqa: B023, E731
        run()
        run()
        whole = timed(run) / 8
        with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as profiler:
            run()
            torch.cuda.synchronize()
        shares: dict[str, float] = {}
        for event in profiler.key_averages():
            kind = kind_of(event.key)
            shares[kind] = shares.get(kind, 0.0) + event.self_device_time_total / 8e3
        found.append({"shape": [batch, prompt, new], "ms": whole, "kernels_ms": shares})
    return found


def sustained(model: LanguageModel) -> dict[str, float | int]:
    """Median SM clock and power over the second half of some seconds of full load, and their caps."""
    import threading

    import pynvml

    from dlmbench import registry

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    readings: list[tuple[int, float]] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            clock = pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)
            readings.append((clock, pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3))

    watcher = threading.Thread(target=watch)
    watcher.start()
    sampler = registry.load("samplers", "masked_diffusion")
    sampler.generate(model, batch_of(8, 512), 512, diffusion_knobs("native", 512, steps=16))
    done.set()
    watcher.join()
    middle = readings[len(readings) // 2 :]
    return {
        "sm_clock_mhz": statistics.median(clock for clock, _ in middle),
        "sm_clock_max_mhz": pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM),
        "power_w": statistics.median(power for _, power in middle),
        "power_cap_w": pynvml.nvmlDeviceGetPowerManagementLimit(handle) / 1e3,
    }


def steps_part(engines: tuple[str, ...], result: dict[str, Any]) -> list[Row]:
    """LLaDA without a cache, and the shapes with much attention by cuDNN's kernel."""
    models = {name: load(name, "llada", "flash") for name in engines}
    if "hf" in engines:
        result["profile"], result["sustained"] = profile(models["native"]), sustained(models["native"])
    rows = diffusion(models, "flash", CANVASES)
    models.clear()
    free()
    return rows + (diffusion({"native": load("native", "llada", "cudnn")}, "cudnn", CUDNN_CANVASES))


def cached_part(engines: tuple[str, ...], result: dict[str, Any]) -> list[Row]:
    """LLaDA's forwards with a cache; with hf at batch 1 alone."""
    models = {name: load(name, "llada", "flash") for name in engines}
    return [
        cached(Row(cache, name, "flash", batch, prompt, new, 0.0), models[name])
        for cache, batch, prompt, new in CACHED
        for name in engines
        if name == "native" or batch == 1
    ]


def llama_part(engines: tuple[str, ...], result: dict[str, Any]) -> list[Row]:
    """LLaMA's prefills and its decoding."""
    return autoregression({name: load(name, "llama", "flash") for name in engines}, "flash")


def weights_part(engines: tuple[str, ...], result: dict[str, Any]) -> list[Row]:
    """Loading and exactness, which have no rows."""
    import weights

    if "hf" in engines:
        result["exactness"], result["loading"] = weights.exactness(), weights.loading()
    return []


PARTS = {"steps": steps_part, "cached": cached_part, "llama": llama_part, "weights": weights_part}


def free() -> None:
    """Give memory of models that are gone back to the device."""
    import gc

    import torch

    gc.collect()
    torch.cuda.empty_cache()


def run_part(part: str, output: Path, again: bool) -> None:
    """One part on one GPU, into PART.json; `again`: native's rows alone, into the rows of that file."""
    import torch
    import transformers

    began = time.perf_counter()
    result: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "precision": "bfloat16",
    }
    path = output / f"{part}.json"
    if again:
        result = json.loads(path.read_text())
        for row in PARTS[part](("native",), {}):
            same = [r for r in result["rows"] if all(r[k] == getattr(row, k) for k in CELL)]
            same[0]["again_ms"] = row.ms
    else:
        result["ceilings"] = ceilings()
        result["rows"] = [asdict(r) for r in PARTS[part](("hf", "native"), result)]
        for row in result["rows"]:
            row["ceilings"] = result["ceilings"]
    result["seconds"] = result.get("seconds", 0.0) + time.perf_counter() - began
    path.write_text(json.dumps(result, indent=1) + "\n")


def run_parts(parts: list[str], output: Path) -> None:
    """Each part twice, in processes of their own, as many parts at once as there are GPUs; then all in one file.

    A part that fails or takes too long is missing there.
    """
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus: Queue[str] = Queue()
    for gpu in visible.split(",") if visible else map(str, range(torch.cuda.device_count())):
        gpus.put(gpu)

    def run(part: str) -> None:
        gpu, began = gpus.get(), time.perf_counter()
        (output / f"{part}.json").unlink(missing_ok=True)
        for words in ([], ["--again"] if part != "weights" else None):
            if words is not None:
                left = LIMIT_S - (time.perf_counter() - began)
                command = [sys.executable, __file__, "--output", str(output), "--part", part, "--inside", *words]
                environment = {**os.environ, "CUDA_VISIBLE_DEVICES": gpu}
                try:
                    subprocess.run(command, env=environment, check=True, timeout=left)
                except (subprocess.SubprocessError, OSError) as error:
                    log(f"{part}: {error}")
                    break
        gpus.put(gpu)

    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(run, parts))
    merge(output)


def merge(output: Path) -> None:
    """The parts that a folder has, in one file, engines.json."""
    merged: dict[str, Any] = {"rows": [], "seconds": {}}
    for part in PARTS:
        if (path := output / f"{part}.json").exists():
            found = json.loads(path.read_text())
            merged["rows"] += found.pop("rows")
            merged["seconds"][part] = found.pop("seconds")
            merged = found | merged
    (output / "engines.json").write_text(json.dumps(merged, indent=1) + "\n")


def log(line: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(line + "\n")


# ---------------------------------------------------------------- the page


def page(path: Path) -> str:
    """docs/performance.md, from the JSON, that of a trial beside it and the text in performance.md.jinja."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    found, folder = json.loads(path.read_text()), Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    profiles = [{**p, "total": sum(p["kernels_ms"].values())} for p in found["profile"]]
    made = tables(found)
    compared = [r for r in made["step"] if r["cudnn"]][-1]
    return environment.get_template("performance.md.jinja").render(
        run=found,
        tables=made,
        misses=list(misses(made)),
        last=profiles[-1],
        trial=trial(path.with_name("block-attention.json")),
        cudnn_saves=1 - compared["cudnn"] / compared["ms"],
    )


def trial(path: Path) -> list[dict[str, Any]]:
    """Forwards with a dual cache before and after attention of a block of queries, and that attention by kernel."""
    found = json.loads(path.read_text())
    attention = {(a["batch"], a["queries"]): a for a in found["attention"]}
    return [r | attention[r["batch"], BLOCK] for r in found["rows"] if r["what"] == "dual"]


def misses(made: dict[str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Rows below their target, with the device time of their kernels by kind; of steps, only the shortest has one."""
    for kind, target in TARGETS.items():
        for row in made[kind]:
            reached = row["floor_under_load"] / row["ms"]
            if reached >= target or (kind == "step" and row["prompt"] + row["new"] > 128):
                continue
            parts = dict.fromkeys(("matrix products", "attention", "other"), 0.0)
            for name, ms, calls in row["kernels"]:
                if calls >= 1:  # less often than once a token: of the prefill before it
                    found = kind_of(name)
                    parts[found if found in parts else "other"] += ms
            yield row | {"target": target, "reached": reached, "parts": parts}


def kind_of(kernel: str) -> str:
    """What a kernel does, by its name."""
    return next((kind for kind, parts in KERNELS if any(part in kernel.lower() for part in parts)), "other")


def tables(found: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The engines of each cell on one line, with floors from its own part's ceilings, in a burst and under load."""
    made: dict[str, list[dict[str, Any]]] = {}
    for row in (r for r in found["rows"] if r["engine"] == "native" and r["attention"] == "flash"):
        shape = [row[k] for k in ("what", "batch", "prompt", "new")]
        same = [r for r in found["rows"] if [r[k] for k in ("what", "batch", "prompt", "new")] == shape]
        hf = next((r for r in same if r["engine"] == "hf"), {})
        cudnn = next((r for r in same if r["attention"] == "cudnn"), {})
        floors = [floor_ms(row, row["ceilings"], rate) for rate in ("matrix_flops", "matrix_flops_under_load")]
        line = {
            **row,
            "hf": hf.get("ms"),
            "hf_peak": hf.get("peak_over_weights_gib"),
            "cudnn": cudnn.get("ms"),
            "floor": floors[0],
            "floor_under_load": floors[1],
        }
        made.setdefault(row["what"], []).append(line)
    return made


def floor_ms(row: dict[str, Any], ceilings: dict[str, float], rate: str) -> float | None:
    """Least time of a forward, a prefill or a decoded token: arithmetic or bytes at this run's ceilings."""
    from dlmbench import registry
    from dlmbench.roofline import corrected, operators
    from dlmbench.roofline.hardware import Hardware
    from dlmbench.roofline.models_8b import LLADA_8B, LLAMA_8B, cell

    matrix = ceilings[rate]
    device = Hardware("measured", matrix, matrix / 16, ceilings["bandwidth"], 0.0, 50e6, "this run", "")
    batch, prompt, new = row["batch"], row["prompt"], row["new"]
    if row["what"] == "decode":
        # No prompt and 2L - 1 new tokens have mean context L, the context half way through this generation.
        tokens = 2 * (prompt + new // 2) - 1
        return 1e3 * corrected.floor_s(cell(LLAMA_8B, "native", (batch, 0, tokens)), LLAMA_8B, device) / tokens
    if row["what"] == "prefill":
        return 1e3 * corrected.floor_s(cell(LLAMA_8B, "native", (batch, prompt, 1)), LLAMA_8B, device)
    if row["what"] in ("prefix", "dual"):
        one = cell(LLADA_8B, "native", (batch, prompt, new), cache=row["what"], block_length=BLOCK, steps=new)
        middle = prompt + new // BLOCK // 2 * BLOCK
        start, stop = registry.load("cache", row["what"]).span(middle, middle + BLOCK, prompt + new)
        size, length = stop - start, prompt + new
        forward = operators.Forward(
            count=1, positions=size, context=length, pairs=size * length, cached=length, sampled=BLOCK,
            rows=batch, head=BLOCK,
        )  # fmt: skip
        load = operators.load_of(forward, one, LLADA_8B, exact_mask=True)
        return 1e3 * max(load.flops / matrix, load.compulsory_bytes / device.bandwidth)
    if row["what"] == "step":
        return 1e3 * corrected.floor_s(cell(LLADA_8B, "native", (batch, prompt, new), steps=1), LLADA_8B, device)
    return None


def main() -> None:
    """Measure, or make the page from a measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="measure, and write the JSON into this folder")
    parser.add_argument("--part", choices=PARTS, help="this part alone")
    parser.add_argument("--page", type=Path, help="write the page made from this JSON to stdout")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)  # in the process of one part
    parser.add_argument("--again", action="store_true", help=argparse.SUPPRESS)  # in its second process
    args = parser.parse_args()
    if args.page:
        sys.stdout.write(page(args.page))
        return
    import torch

    if args.output is None or not torch.cuda.is_available():
        parser.error("needs --output and a CUDA device, or --page with an earlier run's JSON")
    args.output.mkdir(parents=True, exist_ok=True)
    if args.inside:
        run_part(args.part, args.output, args.again)
    else:
        run_parts([args.part] if args.part else list(PARTS), args.output)


if __name__ == "__main__":
    main()
