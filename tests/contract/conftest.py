"""One random LLaDA checkpoint for all conformance tests, as an engine's model and as plain arithmetic."""

from __future__ import annotations

import pytest
import torch

from checkpoints import LLADA, LLAMA, write_checkpoint
from contract.reference import PlainModel
from dlmbench.engines import _checkpoint as checkpoint
from dlmbench.engines import hf
from dlmbench.types import ModelSpec


def _engine(folder, config):
    write_checkpoint(folder, config, seed=7, scale=0.35)
    spec = ModelSpec("m", config["model_type"], str(folder), "target")
    return hf.load(spec, folder, precision="float32", attention="math", device="cpu")


@pytest.fixture(scope="session")
def diffusion_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llada")
    _engine(folder, LLADA)
    return folder


@pytest.fixture(scope="session")
def diffusion(diffusion_folder):
    return _engine(diffusion_folder, LLADA)


@pytest.fixture(scope="session")
def causal(tmp_path_factory):
    return _engine(tmp_path_factory.mktemp("llama"), LLAMA)


@pytest.fixture(scope="session")
def plain(diffusion_folder):
    found = checkpoint.inspect(diffusion_folder)
    weights = dict(checkpoint.tensors(found, torch.device("cpu"), torch.float32))
    return PlainModel(weights, heads=4, kv_heads=4, layers=2, theta=500000.0)
