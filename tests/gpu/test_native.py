"""The native engine on a GPU: as exact as bfloat16 allows, and the same tokens with and without CUDA graphs."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from dlmbench import registry  # noqa: E402
from dlmbench.models.engines import hf  # noqa: E402
from dlmbench.models.engines.native import transformer  # noqa: E402
from dlmbench.types import ModelSpec, Prompt, PromptBatch  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def load(engine, family, precision="bfloat16", attention="flash", **options):
    spec = ModelSpec("m", family, "tiny", "target", weights="random")
    if engine is transformer:
        options = {"compile": True} | options  # by default a model this small is not compiled
    return engine.load(spec, None, precision=precision, attention=attention, device="cuda", seed=3, **options)


def prompts(rows, length):
    generator = torch.Generator().manual_seed(rows)
    drawn = torch.randint(5, 200, (rows, length), generator=generator).tolist()
    return PromptBatch(tuple(Prompt(i, tuple(row)) for i, row in enumerate(drawn)), "")


def knobs(new, **chosen):
    sampler = registry.load("samplers", "masked_diffusion")
    defaults = {k.name: k.default for k in registry.knobs_of("masked_diffusion", chosen).values()}
    return sampler.resolve(defaults | chosen, "native", new)


@pytest.mark.parametrize("family", ["llada", "llama"])
def test_bfloat16_logits_are_as_near_to_float32_as_those_of_transformers(family):
    tokens = torch.tensor([p.ids for p in prompts(2, 96).prompts], device="cuda")

    def logits(engine, **options):
        model = load(engine, family, **options)
        return model.logits(model.forward(tokens), 0, 96).double()

    exact = logits(transformer, precision="float32", attention="math", compile=False, cuda_graphs=False)
    ours, theirs = (((logits(e) - exact).norm() / exact.norm()).item() for e in (transformer, hf))
    plain = ((logits(transformer, compile=False, cuda_graphs=False) - exact).norm() / exact.norm()).item()
    print(f"{family}: native {ours:.2e}, native plain {plain:.2e}, hf {theirs:.2e}")
    assert max(ours, plain) < 2e-2
    assert max(ours, plain) < 1.1 * theirs


KNOBS = [
    {"steps": 8},
    {"commit": "random", "steps": 16},
    {"commit": "threshold", "threshold": 0.02, "cache": "dual", "block_length": 16},
    {"commit": "factor", "cache": "prefix", "block_length": 16},
    {"steps": 8, "temperature": 0.7, "cfg_scale": 1.0},
]


def test_cuda_graphs_give_the_same_tokens():
    sampler = registry.load("samplers", "masked_diffusion")
    with_graphs, without = (load(transformer, "llada", cuda_graphs=graphs) for graphs in (True, False))
    for chosen in KNOBS:
        for rows in (1, 3):
            one, other = (
                [sampler.generate(m, prompts(rows, 24), 32, knobs(32, **chosen), seed=5).tokens_BG for _ in range(3)]
                for m in (with_graphs, without)
            )
            assert len({*one, *other}) == 1, chosen
    other_prompts = prompts(2, 24)
    made = [sampler.generate(m, other_prompts, 32, knobs(32, steps=8)).tokens_BG for m in (with_graphs, without)]
    assert made[0] == made[1]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_decoding_with_cuda_graphs_gives_the_same_tokens(temperature):
    sampler = registry.load("samplers", "autoregressive")
    made = []
    for graphs in (True, False):
        model = load(transformer, "llama", cuda_graphs=graphs)
        for length in (10, 300):
            made.append(sampler.generate(model, prompts(2, length), 40, {"temperature": temperature}, seed=1).tokens_BG)
            made.append(sampler.generate(model, prompts(2, length), 40, {"temperature": temperature}, seed=1).tokens_BG)
    assert made[:4] == made[4:]
    assert made[0] == made[1]
    assert made[2] == made[3]


@pytest.mark.parametrize(
    ("rows", "queries", "kv_heads", "last_key"),
    [
        *((1, 1, 8, 0), (1, 1, 8, 63), (1, 1, 8, 700), (4, 1, 8, 511), (40, 1, 8, 129)),
        *((1, 32, 32, 799), (5, 32, 32, 799), (2, 64, 32, 700), (3, 7, 32, 333), (2, 12, 8, 799)),
    ],
)
def test_flash_decoding_is_attention(rows, queries, kv_heads, last_key):
    from dlmbench.models.engines.native import triton_kernels

    q = torch.randn(rows, queries, 32, 128, device="cuda", dtype=torch.bfloat16)
    k, v = (torch.randn(rows, 800, kv_heads, 128, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    found = triton_kernels.flash_decode(torch.tensor([last_key], device="cuda"), q, k, v)
    keys, values = (t[:, : last_key + 1].transpose(1, 2).double() for t in (k, v))
    exact = torch.nn.functional.scaled_dot_product_attention(
        q.double().transpose(1, 2), keys, values, enable_gqa=True
    ).transpose(1, 2)
    assert relative(found, exact) < 5e-3


@pytest.mark.parametrize("rows", [1, 3, 16, 17, 32])
def test_skinny_gemm_is_a_matrix_product(rows):
    from dlmbench.models.engines.native.triton_kernels import SkinnyGemm

    gemm = SkinnyGemm(128256, torch.device("cuda"))
    # The kernel does not support the last shape, so torch computes that one.
    for outputs, inputs in ((4096, 4096), (4096, 14336), (6144, 4096), (128256, 4096), (4104, 4104)):
        weight = torch.randn(outputs, inputs, device="cuda", dtype=torch.bfloat16) * 0.02
        x = torch.randn(rows, inputs, device="cuda", dtype=torch.bfloat16)
        before = torch.randn(rows, outputs, device="cuda", dtype=torch.bfloat16)
        exact = x.double() @ weight.double().T
        assert relative(gemm.linear(x, weight), exact) < 3e-3
        sums = [before.clone() for _ in range(3)]
        for out in sums:
            gemm.linear_add_(out, x, weight)
        assert relative(sums[0], before.double() + exact) < 3e-3
        assert torch.equal(sums[0], sums[1])
        assert torch.equal(sums[0], sums[2])


def relative(found, exact):
    return ((found.double() - exact).norm() / exact.norm()).item()


def test_loading_holds_the_model_once():
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    model = load(transformer, "llada")
    weights = 2 * model.architecture.parameters
    largest = 2 * model.architecture.vocab_size * model.architecture.hidden_size
    assert torch.cuda.max_memory_allocated() - before < 1.02 * weights + largest
