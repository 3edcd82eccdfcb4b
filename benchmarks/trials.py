# ruff: noqa
# mypy: ignore-errors
"""Trials for the native engine: parts in processes of their own, each with a time limit; JSON lines as they come.

python benchmarks/trials.py all --output FOLDER --limit 250     # parts spread over the GPUs
python benchmarks/trials.py PART --output FILE
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

OUT: Any = None


def emit(kind: str, **values: Any) -> None:
    line = json.dumps({"kind": kind, **values})
    print(line, flush=True)
    OUT.write(line + "\n")
    OUT.flush()


def attempt(name: str, run: Any, *args: Any, **kw: Any) -> Any:
    try:
        return run(*args, **kw)
    except Exception as error:  # noqa: BLE001
        emit("error", name=name, error=repr(error)[:300], trace=traceback.format_exc()[-600:])
        return None


def graph_ms(run: Any, replays: int = 10) -> float:
    """Milliseconds of one call, replayed as a CUDA graph."""
    import torch

    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    for _ in range(2):
        graph.replay()
    times = []
    for _ in range(replays):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


# ---------------------------------------------------------------- whole engine


def load(which: str, family: str) -> Any:
    from dlmbench.types import ModelSpec

    name = "before.transformer_before" if which == "before" else "dlmbench.models.engines.native.transformer"
    module = importlib.import_module(name)
    spec = ModelSpec(family, family, "8b", "target", weights="random")
    return module.load(spec, None, precision="bfloat16", attention="flash", device="cuda")


def table(name: str, run: Any, forwards: int) -> None:
    import torch
    from torch.profiler import ProfilerActivity

    with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    events = sorted(profiler.key_averages(), key=lambda e: -e.self_device_time_total)
    rows = [
        [e.key[:110], round(e.self_device_time_total / forwards / 1e3, 4), round(e.count / forwards, 2)]
        for e in events[:14]
    ]
    total = sum(e.self_device_time_total for e in events) / forwards / 1e3
    emit("profile", name=name, total_ms=round(total, 3), kernels=rows)


def cached(which: str, batches: Any = (1, 4, 8, 16, 32), profiled: Any = (1, 8, 32)) -> None:
    import engines
    import torch

    from dlmbench.sampling.denoise import Canvas, DenoisingLoop, padded

    began = time.perf_counter()
    model = load(which, "llada")
    emit("loaded", which=which, seconds=time.perf_counter() - began)
    ceilings = engines.ceilings()
    emit("ceilings", which=which, **ceilings)

    def one(cache: str, batch: int) -> None:
        row = engines.cached(engines.Row(cache, "native", "flash", batch, 894, 256, 0.0), model)
        asked = {"what": cache, "batch": batch, "prompt": 894, "new": 256}
        floors = [engines.floor_ms(asked, ceilings, r) for r in ("matrix_flops", "matrix_flops_under_load")]
        share = [round(f / row.ms, 3) for f in floors]
        emit("forward", which=which, cache=cache, batch=batch, ms=round(row.ms, 4), burst=share[0], held=share[1])

    def profile(cache: str, batch: int) -> None:
        knobs = engines.diffusion_knobs("native", 256, cache=cache, block_length=32, steps=256)
        with torch.inference_mode():
            model.reset_graphs()
            prompts = engines.batch_of(batch, 894)
            tokens, _ = padded(prompts, model)
            runner = model.graph_runner("profile", lambda: Canvas(model, (batch, 894, 256), frozenset({"kv_cache"})))
            runner.state.reset(tokens, None, prompts)
            loop = DenoisingLoop(model, runner, knobs, 0, None)
            loop.denoise_block(slice(128, 160), [1] * 4)
            start = 894 + 128
            span = loop.cache.span(start, start + 32, 894 + 256)
            step = lambda: loop._step(slice(128, 160), span, 1)  # noqa: E731, SLF001
            replay = lambda: [runner.run((start, span, 1), step) for _ in range(4)]  # noqa: E731
            replay()
            table(f"{which} {cache} B={batch}", replay, 4)

    def step(batch: int, prompt: int, new: int) -> None:
        from dlmbench import registry

        sampler = registry.load("samplers", "masked_diffusion")
        prompts, knobs = engines.batch_of(batch, prompt), engines.diffusion_knobs("native", new, steps=8)
        run = lambda: sampler.generate(model, prompts, new, knobs).forwards  # noqa: E731
        row = engines.measure(engines.Row("step", "native", "flash", batch, prompt, new, 0.0), model, run, 5)
        asked = {"what": "step", "batch": batch, "prompt": prompt, "new": new}
        floors = [engines.floor_ms(asked, ceilings, r) for r in ("matrix_flops", "matrix_flops_under_load")]
        share = [round(f / row.ms, 3) for f in floors]
        emit("step", which=which, shape=[batch, prompt, new], ms=round(row.ms, 4), burst=share[0], held=share[1])
        attempt("table", table, f"{which} step {batch},{prompt},{new}", run, 8)

    for batch in batches:
        for cache in ("dual", "prefix"):
            attempt(f"{which} {cache} {batch}", one, cache, batch)
            if batch in profiled:
                attempt(f"{which} profile {cache} {batch}", profile, cache, batch)
    for shape in ((1, 64, 64), (1, 128, 128), (8, 512, 512)):
        attempt(f"{which} step {shape}", step, *shape)


def llama(which: str) -> None:
    import engines

    from dlmbench import registry

    model = load(which, "llama")
    ceilings = engines.ceilings()
    emit("ceilings", which=which, **ceilings)
    sampler = registry.load("samplers", "autoregressive")

    def one(what: str, batch: int, prompt: int, new: int) -> None:
        prompts = engines.batch_of(batch, prompt)

        def run(tokens: int) -> int:
            sampler.generate(model, prompts, tokens, {"temperature": 0.0})
            return 1

        row = engines.measure(
            engines.Row("prefill", "native", "flash", batch, prompt, 1, 0.0), model, lambda: run(1), 7
        )
        ms = row.ms
        if new > 1:
            whole = engines.measure(
                engines.Row("decode", "native", "flash", batch, prompt, new, 0.0), model, lambda: run(new), 3
            )
            ms = (whole.ms - ms) / (new - 1)
        asked = {"what": what, "batch": batch, "prompt": prompt, "new": new}
        floors = [engines.floor_ms(asked, ceilings, r) for r in ("matrix_flops", "matrix_flops_under_load")]
        share = [round(f / ms, 3) for f in floors]
        emit(what, which=which, batch=batch, prompt=prompt, ms=round(ms, 4), burst=share[0], held=share[1])
        if (what, batch, prompt) in (("decode", 1, 512), ("decode", 32, 512), ("prefill", 1, 128), ("prefill", 1, 512)):
            attempt("table", table, f"{which} {what} {batch},{prompt}", lambda: run(new), max(1, new - 1))

    for prompt in (128, 256, 512, 2048):
        attempt(f"prefill {prompt}", one, "prefill", 1, prompt, 1)
    for batch in (1, 8, 32, 64):
        attempt(f"decode {batch}", one, "decode", batch, 512, 64)


# ---------------------------------------------------------------- attention


def attention() -> None:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from dlmbench.models.engines.native import triton_kernels as tk

    F, copies = torch.nn.functional, 8
    for batch, queries in ((1, 32), (4, 32), (8, 32), (16, 32), (32, 32), (1, 128), (8, 128), (32, 128)):
        length, heads = 1150, 32
        draw = lambda n: torch.randn(batch, n, heads, 128, device="cuda", dtype=torch.bfloat16)  # noqa: E731, B023
        q = draw(queries)
        kv = [(draw(length), draw(length)) for _ in range(copies)]
        floor = 2 * kv[0][0].nbytes / 4.26e12 * 1e6
        emit("attention", name="bytes", batch=batch, queries=queries, us=round(floor, 1))
        exact = F.scaled_dot_product_attention(*(t.transpose(1, 2).float() for t in (q, *kv[0]))).transpose(1, 2)

        def measured(name: str, run: Any) -> None:
            found = run(*kv[0])  # noqa: B023
            error = ((found.float() - exact).norm() / exact.norm()).item()  # noqa: B023
            us = graph_ms(lambda: [run(*x) for x in kv]) / copies * 1e3  # noqa: B023
            emit("attention", name=name, batch=batch, queries=queries, us=round(us, 1), error=round(error, 5))  # noqa: B023

        def sdpa(backend: Any) -> Any:
            def run(k: Any, v: Any) -> Any:
                with sdpa_kernel(backend):
                    y = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)))  # noqa: B023
                return y.transpose(1, 2)

            return run

        for name in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION"):
            attempt(name, measured, name, sdpa(getattr(SDPBackend, name)))
        last = torch.full((1,), length - 1, device="cuda")

        def ours(tile: int, keys: int, warps: int, stages: int, splits: int) -> Any:
            def run(k: Any, v: Any) -> Any:
                return launch(tk, q, k, v, last, tile, keys, warps, stages, splits)  # noqa: B023

            return run

        splits = [s for s in (1, 2, 4, 8) if 100 <= batch * heads * s * (queries // 32) <= 1100] or [1]
        for tile, keys, warps, stages in (
            (32, 64, 4, 3), (32, 64, 4, 2), (32, 128, 4, 2), (32, 64, 2, 3), (32, 32, 4, 4), (32, 128, 8, 2),
            (64, 64, 4, 2), (64, 64, 4, 3), (64, 128, 4, 2), (128, 64, 8, 2), (128, 128, 8, 2),
        ):  # fmt: skip
            if tile > max(64, queries) or (queries == 128 and tile < 64):
                continue
            for split in splits[:2]:
                name = f"ours tile={tile} keys={keys} warps={warps} stages={stages} splits={split}"
                attempt(name, measured, name, ours(tile, keys, warps, stages, split))


def launch(
    tk: Any, q: Any, k: Any, v: Any, last: Any, tile: int, keys: int, warps: int, stages: int, splits: int
) -> Any:
    """`flash_decode` with chosen sizes; queries beyond a tile as further rows of a view."""
    import torch

    rows, n_queries, n_heads, dim = q.shape
    if n_queries > tile:  # one launch a tile: only to compare kernels
        parts = [
            launch(tk, part.contiguous(), k, v, last, tile, keys, warps, stages, splits) for part in q.split(tile, 1)
        ]
        return torch.cat(parts, 1)
    length, kv_heads = k.shape[1:3]
    group = n_heads // kv_heads
    out = torch.empty_like(q)
    n_tile = n_queries * group
    acc = torch.empty((rows * kv_heads, splits, n_tile, dim), dtype=torch.float32, device=q.device)
    sums = torch.empty((rows * kv_heads, splits, n_tile, 2), dtype=torch.float32, device=q.device)
    tk._flash_decode_kernel[(rows * kv_heads, splits)](  # noqa: SLF001
        q, k, v, out, acc, sums, last, n_queries, length, kv_heads, dim**-0.5 * 1.4426950408889634, group, dim, splits,
        keys, tile, True, num_warps=warps, num_stages=stages, launch_pdl=True,
    )  # fmt: skip
    if splits > 1:
        tk._flash_decode_combine_kernel[(rows * kv_heads, n_tile)](  # noqa: SLF001
            acc, sums, out, n_queries, kv_heads, group, dim, splits, True, launch_pdl=True
        )
    return out


# ---------------------------------------------------------------- products

SHAPES = {"qkv": (12288, 4096), "o": (4096, 4096), "gate_up": (24576, 4096), "down": (4096, 12288)}


def products(rows: Any = (128, 256, 512, 1024, 64)) -> None:
    import torch
    import trial_gemm as tg

    copies = {"qkv": 4, "o": 8, "gate_up": 2, "down": 4}
    for M in rows:
        for shape, (N, K) in SHAPES.items():
            x = torch.randn(M, K, device="cuda", dtype=torch.bfloat16)
            weights = [torch.randn(N, K, device="cuda", dtype=torch.bfloat16) * 0.02 for _ in range(copies[shape])]
            out = torch.zeros(M, N, device="cuda", dtype=torch.bfloat16)
            exact = x.float() @ weights[0].float().T
            floor = max(2 * N * K / 4.26e12, 2 * M * N * K / 663e12) * 1e6
            emit("product", shape=shape, M=M, name="floor", us=round(floor, 1))

            def measured(name: str, run: Any) -> None:
                found = run(weights[0])  # noqa: B023
                error = None if found is None else round(((found.float() - exact).norm() / exact.norm()).item(), 5)  # noqa: B023
                us = graph_ms(lambda: [run(w) for w in weights]) / len(weights) * 1e3  # noqa: B023
                emit("product", shape=shape, M=M, name=name, us=round(us, 1), error=error)  # noqa: B023

            attempt("mm", measured, "mm", lambda w: x @ w.T)  # noqa: B023
            if shape in ("o", "down"):
                attempt("addmm", measured, "addmm", lambda w: out.addmm_(x, w.T) and None)  # noqa: B023
            attempt("swapped", measured, "W x^T", lambda w: (w @ x.T).T)  # noqa: B023
            for BT, BN, BK, warps, stages, programs in tg.CONFIGS[M]:
                name = f"stream-k {BT}x{BN}x{BK} warps={warps} stages={stages} programs={programs}"
                run = lambda w, c=(BT, BN, BK, warps, stages, programs): tg.stream_k(x, w, *c)  # noqa: B023, E731
                attempt(name, measured, name, run)


def skinny() -> None:
    """Few rows: the sizes of our products."""
    import torch

    from dlmbench.models.engines.native import triton_kernels as tk

    for M in (32, 8):
        for shape, (N, K) in SHAPES.items():
            x = torch.randn(M, K, device="cuda", dtype=torch.bfloat16)
            copies = {"qkv": 4, "o": 8, "gate_up": 2, "down": 4}[shape]
            weights = [torch.randn(N, K, device="cuda", dtype=torch.bfloat16) * 0.02 for _ in range(copies)]
            locks = torch.zeros(4096, device="cuda", dtype=torch.int32)
            padded = 16 if M <= 16 else 32
            emit("skinny", shape=shape, M=M, name="floor", us=round(2 * N * K / 4.26e12 * 1e6, 1))

            def measured(name: str, run: Any) -> None:
                us = graph_ms(lambda: [run(w) for w in weights]) / len(weights) * 1e3  # noqa: B023
                emit("skinny", shape=shape, M=M, name=name, us=round(us, 1))  # noqa: B023

            def plain(
                w: Any, bn: int, bk: int, stages: int, splits: int, warps: int, pdl: bool, prefetched: int
            ) -> None:
                y = torch.empty(M, N, device="cuda", dtype=torch.bfloat16)  # noqa: B023
                partial = torch.empty((2, M, N), dtype=torch.float32, device="cuda")  # noqa: B023
                tk._skinny_gemm_kernel[(N // bn, splits)](  # noqa: SLF001, B023
                    x, w, y, partial, locks, M, N, K, padded, bn, bk, splits, prefetched, pdl,  # noqa: B023
                    num_warps=warps, num_stages=stages, launch_pdl=pdl,
                )  # fmt: skip

            def gated(w: Any, bn: int, bk: int, stages: int, warps: int, pdl: bool, prefetched: int) -> None:
                y = torch.empty(M, N // 2, device="cuda", dtype=torch.bfloat16)  # noqa: B023
                tk._gated_gemm_kernel[(N // 2 // bn,)](  # noqa: SLF001, B023
                    x, w, y, M, N // 2, K, padded, bn, bk, prefetched, pdl, num_warps=warps, num_stages=stages,  # noqa: B023
                    launch_pdl=pdl,
                )  # fmt: skip

            attempt("mm", measured, "mm", lambda w: x @ w.T)  # noqa: B023
            split = 2 if shape in ("o", "down") else 1
            for c in (
                (64, 128, 3 + split, split, 4, False, 512), (64, 128, 3 + split, split, 4, True, 512),
                (64, 128, 3 + split, split, 4, True, 1024), (64, 128, 3, split, 4, True, 512),
                (64, 128, 4, split, 4, True, 256), (64, 256, 3, split, 4, True, 512), (64, 256, 3, split, 8, True, 512),
                (128, 64, 5, split, 4, True, 512), (64, 64, 6, split, 4, True, 512), (128, 128, 3, split, 8, True, 512),
            ):  # fmt: skip
                name = "block {}x{} stages={} splits={} warps={} pdl={} prefetched={}".format(*c)
                attempt(name, measured, name, lambda w, c=c: plain(w, *c))
            if shape == "gate_up":
                for d in (
                    (64, 64, 4, 4, True, 512), (64, 64, 5, 4, True, 512), (64, 64, 3, 4, True, 512),
                    (64, 128, 2, 4, True, 512), (64, 128, 3, 4, True, 512), (64, 128, 4, 8, True, 512), (64, 64, 4, 8, True, 512),
                ):  # fmt: skip
                    name = "gated {}x{} stages={} warps={} pdl={} prefetched={}".format(*d)
                    attempt(name, measured, name, lambda w, d=d: gated(w, *d))


# ---------------------------------------------------------------- small models and correctness


def first() -> None:
    """A first generation of the embedded pair, caches empty; then the same with caches, and where the time goes."""
    source = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder) / "prompts.txt"
        prompts.write_text("the old dog sees a red ball .\n")
        for engine, model in (
            ("native", "embedded:llada"), ("native", "embedded:ar"), ("hf", "embedded:llada"), ("native", "embedded:llada"),
        ):  # fmt: skip
            for _ in range(1):
                env = {**os.environ, "PYTHONPATH": f"{source}/src:{os.environ.get('PYTHONPATH', '')}"}
                env |= {"TRITON_CACHE_DIR": f"{folder}/triton", "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor"}
                words = [
                    sys.executable,
                    "-X",
                    "importtime",
                    "-m",
                    "dlmbench",
                    "generate",
                    "--model",
                    model,
                    "--engine",
                    engine,
                ]
                began = time.perf_counter()
                done = subprocess.run(
                    [*words, "--prompt-file", str(prompts), "--new-tokens", "32"],
                    env=env, capture_output=True, text=True, check=False, timeout=120,
                )  # fmt: skip
                imports = [line.split("|") for line in done.stderr.splitlines() if line.startswith("import time:")]
                slow = sorted(
                    (
                        (int(a[-1]), c.strip())
                        for _, a, c in ((x[0], [x[1]], x[2]) for x in imports if x[1].strip().isdigit())
                    ),
                    reverse=True,
                )[:8]
                errors = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
                emit("first", engine=engine, model=model, seconds=round(time.perf_counter() - began, 1), rc=done.returncode,
                     text=done.stdout[:80], imports=slow, errors="\n".join(errors)[-300:])  # fmt: skip


def tests() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/gpu/test_native.py", "-q", "-p", "no:cacheprovider", "-s", "--durations=8"],
        capture_output=True, text=True, check=False, timeout=125,
    )  # fmt: skip
    emit("tests", rc=done.returncode, tail=done.stdout[-3000:], errors=done.stderr[-500:])


def without_pdl() -> None:
    from dlmbench.models.engines.native import triton_kernels as tk

    tk._pdl = lambda: False
    cached("after", (1,), (1,))


PARTS = {
    "without_pdl": without_pdl,
    "before": lambda: cached("before"),
    "after": lambda: cached("after"),
    "llama_before": lambda: llama("before"),
    "llama_after": lambda: llama("after"),
    "attention": attention,
    "products": products,
    "skinny": skinny,
    "first": first,
    "tests": tests,
}
# One list a GPU, most important first.
PLAN = (
    ("before", "llama_before", "without_pdl"),
    ("tests", "after"),
    ("products", "skinny", "first"),
    ("attention", "llama_after"),
)


def run_all(folder: Path, limit: float) -> None:
    import threading

    began = time.perf_counter()

    def run(gpu: int, parts: tuple[str, ...]) -> None:
        for part in parts:
            left = limit - (time.perf_counter() - began)
            if left < 20:
                sys.stderr.write(f"{part}: no time left\n")
                return
            env = {**os.environ, "CUDA_VISIBLE_DEVICES": str(gpu)}
            with Path(f"/tmp/{part}.log").open("w") as log:
                started = time.perf_counter()
                try:
                    done = subprocess.run(
                        [sys.executable, __file__, part, "--output", str(folder / f"gpu{gpu}.jsonl")],
                        env=env, stdout=log, stderr=log, check=False, timeout=left,
                    ).returncode  # fmt: skip
                except subprocess.TimeoutExpired:
                    done = -1
            seconds = time.perf_counter() - started
            sys.stderr.write(f"gpu {gpu} {part}: rc {done} after {seconds:.0f} s\n")
            if done:
                tail = Path(f"/tmp/{part}.log").read_text(errors="replace")[-1500:]
                sys.stderr.write(tail + "\n")
                with (folder / f"gpu{gpu}.jsonl").open("a") as out:
                    out.write(json.dumps({"kind": "failed", "part": part, "rc": done, "tail": tail}) + "\n")

    threads = [threading.Thread(target=run, args=(gpu, parts)) for gpu, parts in enumerate(PLAN)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> None:
    global OUT
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["all", *PARTS])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--limit", type=float, default=250)
    args = parser.parse_args()
    if args.part == "all":
        run_all(args.output, args.limit)
        return
    OUT = args.output.open("a")
    attempt(args.part, PARTS[args.part])


if __name__ == "__main__":
    main()
