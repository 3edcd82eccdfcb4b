"""How much memory the engines take to load their weights, and how exact their logits are.

Parts of `benchmarks/engines.py`, which writes them to its JSON. As a script it loads one checkpoint in a fresh process
and prints the peaks: python benchmarks/weights.py FOLDER ENGINE
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FAMILY = "llada"
SHARD = "5GB"  # the shard size of published checkpoints
EXACT_SHAPE = (2, 512)


def write_checkpoint(folder: Path) -> dict[str, Any]:
    """A checkpoint of 8B shapes with random weights, in the family's official layout; returns its sizes in GiB."""
    import torch
    from huggingface_hub import save_torch_state_dict

    from dlmbench import registry
    from dlmbench.models import checkpoint

    family = registry.load("families", FAMILY)
    arch = checkpoint.named_architecture(FAMILY, "8b")
    official = {spec.llama: spec.official for spec in family.tensors(arch)}
    (folder / "config.json").write_text(json.dumps(family.KNOWN["8b"]))
    random = checkpoint.random_tensors(arch, torch.device("cuda"), torch.bfloat16, 0)
    tensors = {official[name]: tensor.cpu() for name, tensor in random}
    save_torch_state_dict(tensors, folder, max_shard_size=SHARD)
    sizes = [tensor.nbytes for tensor in tensors.values()]
    return {
        "checkpoint_gib": sum(sizes) / 2**30,
        "largest_shard_gib": max(p.stat().st_size for p in folder.glob("*.safetensors")) / 2**30,
        "largest_tensor_gib": max(sizes) / 2**30,
    }


def load_once(folder: Path, engine: str) -> dict[str, float | str | None]:
    """Peaks of loading `folder` in this process, above its memory before, in GiB.

    host: resident memory, including the mapped pages of files being read.
    """
    import torch

    from dlmbench import registry
    from dlmbench.measure import memory
    from dlmbench.types import ModelSpec

    spec = ModelSpec("m", FAMILY, str(folder), "target")
    loader = registry.load("engines", engine)
    torch.zeros(1, device="cuda")  # load libraries and create the context first
    memory.reset_peak_resident()
    resident, allocated = memory.peak_resident_bytes(), torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    model = loader.load(spec, folder, precision="bfloat16", attention="flash", device="cuda")
    torch.cuda.synchronize()
    seconds, peak = time.perf_counter() - began, memory.peak_resident_bytes()
    assert model.architecture.layers
    return {
        "engine": engine,
        "seconds": seconds,
        "device_gib": (torch.cuda.max_memory_allocated() - allocated) / 2**30,
        "host_gib": None if peak is None or resident is None else (peak - resident) / 2**30,
    }


def loading() -> dict[str, Any]:
    """Load one checkpoint of full size with each engine, in separate processes."""
    with tempfile.TemporaryDirectory() as name:
        sizes = write_checkpoint(Path(name))
        gc.collect()
        loads = []
        for engine in ("native", "hf"):
            done = subprocess.run([sys.executable, __file__, name, engine], check=False, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"loading with {engine} failed: {done.stderr[-2000:]}")
            loads.append(json.loads(done.stdout))
    return {**sizes, "loads": loads}


def exactness() -> list[dict[str, Any]]:
    """Relative error of each engine's bfloat16 logits against uncompiled float32, at 8B shapes.

    error: |logits - exact| / |exact| over all positions; same_choice: share of positions with the same argmax.
    """
    import torch

    from dlmbench import registry
    from dlmbench.types import ModelSpec

    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(10, 100_000, EXACT_SHAPE, generator=generator).cuda()

    def logits(family: str, engine: str, precision: str = "bfloat16", attention: str = "flash") -> torch.Tensor:
        spec = ModelSpec("m", family, "8b", "target", weights="random")
        engine_module = registry.load("engines", engine)
        model = engine_module.load(spec, None, precision=precision, attention=attention, device="cuda", seed=3)
        made: torch.Tensor = model.logits(model.forward(tokens), 0, EXACT_SHAPE[1]).float()
        return made

    found = []
    for family in ("llada", "llama"):
        exact = logits(family, "native_plain", "float32", "math")
        choice = exact.argmax(-1)
        for engine in ("hf", "native", "native_plain"):
            made = logits(family, engine)
            same = (made.argmax(-1) == choice).float().mean().item()
            error = ((made - exact).norm() / exact.norm()).item()
            found.append({"family": family, "engine": engine, "error": error, "same_choice": same})
            del made
            gc.collect()
            torch.cuda.empty_cache()
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(load_once(Path(sys.argv[1]), sys.argv[2])))
