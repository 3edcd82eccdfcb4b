"""One random LLaDA checkpoint for all conformance tests, as an engine's model and as plain arithmetic."""

from __future__ import annotations

import pytest
import torch

from dlmbench import registry
from dlmbench.models import checkpoint
from dlmbench.types import ModelSpec
from support.checkpoints import LLADA, LLAMA, write_checkpoint
from support.reference_sampler import PlainModel

# Every engine in the folder: a new one is held to the same tokens without an edit here.
ENGINES = registry.names("engines")


def _engine(name, folder, config):
    write_checkpoint(folder, config, seed=7, scale=0.35)
    spec = ModelSpec("m", config["model_type"], str(folder), "target")
    engine = registry.load("engines", name)
    return engine.load(spec, folder, precision="float32", attention="math", device="cpu")


@pytest.fixture(scope="session")
def diffusion_folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("llada"), LLADA, seed=7, scale=0.35)


@pytest.fixture(scope="session", params=ENGINES)
def diffusion(request, diffusion_folder):
    return _engine(request.param, diffusion_folder, LLADA)


@pytest.fixture(scope="session", params=ENGINES)
def causal(request, tmp_path_factory):
    return _engine(request.param, tmp_path_factory.mktemp("llama"), LLAMA)


@pytest.fixture(scope="session")
def plain(diffusion_folder):
    architecture = checkpoint.inspect(diffusion_folder)
    weights = dict(checkpoint.tensors(diffusion_folder, architecture, torch.device("cpu"), torch.float32))
    return PlainModel(weights, heads=4, kv_heads=4, layers=2, theta=500000.0)
