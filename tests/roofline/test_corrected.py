"""The corrected model: counts against the samplers' own, FLOPs against known formulas, floors, break-even, devices."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dlmbench import registry
from dlmbench.errors import BenchError
from dlmbench.models.families import llada
from dlmbench.roofline import __main__, corrected, hardware, operators
from dlmbench.roofline.break_even import break_even_surface, surfaces
from dlmbench.roofline.models_8b import LLADA_8B, LLAMA_8B, cell
from dlmbench.roofline.predict import predict
from dlmbench.types import EagerRunner, Plan, Prediction, Prompt, PromptBatch

H200 = hardware.find("H200")
CEILINGS = replace(H200, bf16_flops=799e12, bandwidth=4.29e12)
ROOT = Path(__file__).parents[2]
TINY = llada.architecture(llada.KNOWN["tiny"])


class Oracle:
    """Stands in for an engine: no weights, only logits that commit whatever the rule asks for."""

    architecture = TINY
    device = torch.device("cpu")

    def forward(self, tokens_BQ, attention_mask_BN=None, cache=None, start=0):
        return tokens_BQ[..., None].float()

    def logits(self, hidden_BQD, first, last):
        return torch.zeros(len(hidden_BQD), last - first, TINY.vocab_size).index_fill_(-1, torch.tensor([7]), 9.0)

    def logits_chunks(self, hidden_BQD, first, last):
        yield self.logits(hidden_BQD, first, last)

    def new_cache(self, rows, length):
        return object()

    def graph_runner(self, key, make):
        return EagerRunner(make())

    def maybe_compile(self, function):
        return function


@pytest.mark.parametrize(
    "knobs",
    [
        {"steps": 6},
        {"steps": 24},  # more steps than positions: the forwards still run without a cache
        {"steps": 8, "block_length": 4, "cfg_scale": 1.0},
        {"steps": 6, "block_length": 4, "cache": "prefix"},
        {"steps": 12, "block_length": 4, "cache": "dual"},
        {"steps": 3, "block_length": 4, "cache": "dual"},  # one step a block, two as published
        {"steps": 3, "block_length": 4, "cache": "dual", "published_loop": False},
        {"steps": 36, "block_length": 4, "cache": "prefix"},
        {"commit": "threshold", "threshold": 2.0, "block_length": 6},  # one position a forward
        {"commit": "threshold", "threshold": 2.0, "block_length": 6, "cache": "prefix"},
    ],
)
def test_forwards_are_the_samplers_own(knobs):
    prompt, new, rows = 5, 12, 2
    sampler = registry.load("samplers", "masked_diffusion")
    defaults = {name: k.default for name, k in registry.knobs_of("masked_diffusion", knobs).items()}
    settled = sampler.resolve(defaults | knobs, "hf", new)
    batch = PromptBatch(tuple(Prompt(i, tuple(range(3, 3 + prompt))) for i in range(rows)), "x")
    made = sampler.generate(Oracle(), batch, new, settled)

    one = cell(TINY, "hf", (rows, prompt, new), **settled)
    kinds = operators.forwards_of(one, None if "steps" in settled else made.forwards)
    assert sum(f.count for f in kinds) == made.forwards
    assert sum(f.count * f.rows * f.positions for f in kinds) == made.positions
    assert sum(f.count * f.rows * f.pairs for f in kinds) == made.attention_pairs
    assert operators.min_forwards(one) <= made.forwards


@pytest.mark.parametrize(("prompt", "new"), [(5, 12), (7, 1), (1, 30)])
def test_autoregressive_counts(prompt, new):
    """As the sampler counts them: P + G - 1 positions, each seeing itself and all before it."""
    kinds = operators.forwards_of(cell(LLAMA_8B, "hf", (3, prompt, new)))
    positions = prompt + new - 1
    assert sum(f.count * f.rows * f.positions for f in kinds) == 3 * positions
    assert sum(f.count * f.rows * f.pairs for f in kinds) == 3 * positions * (positions + 1) / 2
    assert sum(f.count for f in kinds) == new


def test_flops_of_the_8b_models():
    assert operators.body_weights(LLADA_8B) == operators.body_weights(LLAMA_8B) == 6_979_321_856
    assert (LLADA_8B.parameters, LLAMA_8B.parameters) == (8_015_581_184, 8_030_261_248)
    for engine, share in (("hf", 1), ("native", 0.25)):
        x = cell(LLADA_8B, engine, (3, 768, 256), steps=1)
        load = operators.load_of(operators.forwards_of(x)[0], x, LLADA_8B)
        head = 517_996_544 * share
        assert load.flops == 2 * 3 * 1024 * (6_979_321_856 + head) + 524_288 * 3 * 1024**2
    x = cell(LLAMA_8B, "hf", (2, 100, 2))
    prefill, decode = (operators.load_of(f, x, LLAMA_8B) for f in operators.forwards_of(x))
    head = 2 * 2 * 525_336_576
    assert prefill.flops == 2 * 2 * 100 * 6_979_321_856 + 262_144 * 2 * 100 * 101 + head
    assert decode.flops == 2 * 2 * 6_979_321_856 + 524_288 * 2 * 101 + head
    assert decode.cached_bytes == 2 * 101 * 131_072


@pytest.mark.parametrize(
    ("shape", "milliseconds"),
    [
        ((1, 256, 256), 9.4),
        ((1, 512, 512), 19.2),
        ((1, 1024, 1024), 39.9),
        ((8, 256, 256), 75.6),
        ((8, 512, 512), 153.9),
        ((32, 256, 256), 302.4),
        ((64, 512, 512), 1231.4),
    ],
)
def test_floor_of_a_diffusion_step(shape, milliseconds):
    """Computed by hand from 799 TFLOP/s, 4.29 TB/s and the head on the output positions."""
    floor = corrected.floor_s(cell(LLADA_8B, "hf", shape, steps=1), LLADA_8B, CEILINGS)
    assert round(1e3 * floor, 1) == milliseconds


def test_floor_of_cached_forwards_is_weights_and_cache():
    for (batch, context), milliseconds in {(1, 128): 3.5, (32, 1024): 4.5, (32, 2048): 5.5}.items():
        decode = cell(LLAMA_8B, "hf", (batch, 0, 2 * context - 1))
        assert round(1e3 * corrected.floor_s(decode, LLAMA_8B, CEILINGS) / (2 * context - 1), 1) == milliseconds
    dual = cell(LLADA_8B, "hf", (1, 256, 256), cache="dual", block_length=32, steps=256)
    (later,) = operators.forwards_of(dual, needed_head_only=True)[1:]
    assert round(1e3 * operators.load_of(later, dual, LLADA_8B).compulsory_bytes / 4.29e12, 1) == 3.6


def test_block_length_does_not_change_a_vanilla_generation():
    seconds = {
        corrected.floor_s(cell(LLADA_8B, "hf", (1, 128, 512), steps=256, block_length=b), LLADA_8B, H200)
        for b in (512, 128, 32)
    }
    full = max(seconds)
    # Only the head's needed positions differ, which the floor counts and the official code does not exploit.
    assert min(seconds) > 0.93 * full
    expected = {
        corrected.latency_s(cell(LLADA_8B, "hf", (1, 128, 512), steps=256, block_length=b), LLADA_8B, H200, e)
        for b in (512, 128, 32)
        for e in (corrected.efficiencies_for(cell(LLADA_8B, "hf", (1, 128, 512))),)
    }
    assert max(expected) / min(expected) < 1.01


def test_guidance_doubles_the_work_and_caches_save_it():
    plain = cell(LLADA_8B, "hf", (8, 512, 512), steps=128, block_length=32)
    floor = {
        name: corrected.floor_s(cell(LLADA_8B, "hf", (8, 512, 512), steps=128, block_length=32, **k), LLADA_8B, H200)
        for name, k in (("cfg", {"cfg_scale": 2.0}), ("prefix", {"cache": "prefix"}), ("dual", {"cache": "dual"}))
    }
    vanilla = corrected.floor_s(plain, LLADA_8B, H200)
    assert floor["cfg"] == pytest.approx(2 * vanilla)
    assert floor["dual"] < floor["prefix"] < vanilla


def test_a_floor_is_below_every_roofline():
    for arch, knobs in ((LLAMA_8B, {}), (LLADA_8B, {"steps": 32}), (LLADA_8B, {"steps": 32, "cache": "dual"})):
        for attention in ("flash", "math"):
            for shape in ((1, 64, 64), (8, 512, 512)):
                x = cell(arch, "hf", shape, attention=attention, **knobs)
                ideal = corrected.latency_s(x, arch, H200, corrected.IDEAL)
                assert corrected.floor_s(x, arch, H200) <= ideal < corrected.predict(x, arch, H200).latency_s


def test_rules_without_a_schedule():
    x = cell(LLADA_8B, "hf", (1, 128, 128), commit="threshold", threshold=0.9, block_length=32, cache="dual")
    unknown = corrected.predict(x, LLADA_8B, H200)
    assert unknown.latency_s is None
    assert unknown.peak_bytes is not None
    known = corrected.predict(x, LLADA_8B, H200, forwards=40)
    assert 0 < unknown.floor_s < known.floor_s < known.latency_s  # at least two forwards a block
    assert corrected.predict(x, LLADA_8B, H200, efficiencies={"other": corrected.IDEAL}, forwards=40).latency_s is None


def test_a_model_within_the_cache_is_read_once():
    small = cell(TINY, "hf", (1, 64, 64), precision="float32", steps=64)
    read_once = corrected.compulsory(small, TINY, cache_bytes=H200.cache_bytes)
    each_time = corrected.compulsory(small, TINY)
    assert each_time.bytes == pytest.approx(64 * read_once.bytes)
    assert each_time.flops == read_once.flops


def test_break_even_is_where_the_two_latencies_meet():
    pair = (cell(LLAMA_8B, "hf", (1, 1, 1)), LLAMA_8B), (cell(LLADA_8B, "hf", (1, 1, 1), steps=None), LLADA_8B)
    points = break_even_surface(*pair, H200, [(256, 256, 1), (256, 256, 32)])
    for p in points:
        shape = (p.batch_size, p.prompt_tokens, p.new_tokens)
        both = [
            corrected.predict(cell(arch, "hf", shape, **k), arch, H200).latency_s
            for arch, k in ((LLAMA_8B, {}), (LLADA_8B, {"steps": 64}))
        ]
        assert p.steps == pytest.approx(64 * both[0] / both[1], rel=1e-6)
    assert points[1].steps < points[0].steps / 10  # batches feed the baseline's idle arithmetic


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_break_even_with_a_cache_lies_between_the_schedules_around_it(cache):
    """By the latencies of whole schedules, one by one: the last that is faster, and the first that is slower."""
    knobs = {"block_length": 32, "cache": cache, "commit": "low_confidence"}
    base = cell(LLAMA_8B, "hf", (32, 448, 64)), LLAMA_8B
    target = cell(LLADA_8B, "hf", (32, 448, 64), steps=64, **knobs), LLADA_8B
    (point,) = break_even_surface(base, target, H200, [(448, 64, 32)])
    decoding = corrected.predict(base[0], LLAMA_8B, H200).latency_s

    def seconds(steps):
        schedule = cell(LLADA_8B, "hf", (32, 448, 64), steps=steps, **knobs)
        return corrected.predict(schedule, LLADA_8B, H200).latency_s

    faster = [k for k in range(4, 65, 2) if seconds(k) < decoding]
    assert 4 < max(faster) < 64
    assert max(faster) <= point.steps <= max(faster) + 2


def test_a_plan_has_a_surface_for_each_way_to_run_diffusion():
    shapes = [(1, 64, 64), (8, 64, 64), (1, 448, 64)]
    baselines = [cell(LLAMA_8B, "hf", s) for s in shapes] + [cell(LLAMA_8B, "hf", shapes[0], attention="math")]
    whole = [cell(LLADA_8B, "hf", s, block_length=64, steps=k, commit="low_confidence") for s in shapes for k in (4, 8)]
    blocks = [cell(LLADA_8B, "hf", shapes[0], block_length=32, steps=8, commit="low_confidence", attention="math")]
    free = [cell(LLADA_8B, "hf", shapes[0], commit="threshold", threshold=0.9, block_length=32)]
    known = {"llama": LLAMA_8B, "llada": LLADA_8B}
    one, two = surfaces([*baselines, *whole, *blocks, *free], known, H200)  # what has no schedule has none
    assert [(p.prompt_tokens, p.new_tokens, p.batch_size) for p in one.points] == [
        (64, 64, 1),
        (64, 64, 8),
        (448, 64, 1),
    ]
    assert "math" not in one.baseline
    assert "math" in two.baseline
    assert "block_length=32" in two.target
    assert surfaces(whole, known, H200) == ()
    assert surfaces([*baselines, *whole], {"llama": LLAMA_8B}, H200) == ()


@pytest.mark.parametrize(
    ("reported", "row"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100 80GB SXM"),
        ("A100-SXM4-40GB", "A100 40GB SXM"),
        ("NVIDIA A100-PCIE-40GB", "A100 40GB PCIe"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB PCIe"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 5090", "RTX 5090"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA B200", "B200"),
        ("AMD Instinct MI300X", "MI300X"),
        ("AMD Radeon RX 7900 XT", "RX 7900 XT"),
        ("AMD Radeon RX 7900 XTX", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("cpu", None),
    ],
)
def test_devices_by_the_name_a_driver_reports(reported, row):
    found = hardware.of_device(reported)
    assert (found.name if found else None) == row


def test_rows_of_a_user(tmp_path):
    path = tmp_path / "mine.yaml"
    good = "{name: Box, bf16_flops: 1e12, fp32_flops: 5e11, bandwidth: 5e10, memory_bytes: 6.4e10, source: me, date: x}"
    path.write_text(f"- {good}\n")
    rows = hardware.load_rows(path)
    assert hardware.find("box", rows).bandwidth == 5e10
    for old, new, complaint in (
        ("bandwidth: 5e10, ", "", "'bandwidth' is missing"),
        ("bandwidth", "bandwith", "Did you mean 'bandwidth'"),
        ("5e10", "fast", "bandwidth is not a number"),
        ("5e10", "0", "bandwidth must be above 0"),
    ):
        path.write_text(f"- {good.replace(old, new)}\n")
        with pytest.raises(BenchError) as error:
            hardware.load_rows(path)
        assert complaint in str(error.value)
        assert "device 1" in error.value.message


def test_sizes_of_the_published_errors():
    by_quantity = {d.quantity: d for d in __main__.published_errors()}
    assert by_quantity["the same at base clock"].ratio == pytest.approx(2)
    assert by_quantity["256 steps, 512 tokens, block 32"].ratio == pytest.approx(0.676, abs=1e-3)
    assert 1 - by_quantity["LLaDA forward over 640"].ratio == pytest.approx(0.068, abs=1e-3)
    mask = by_quantity["attention of prefill 2048"]
    assert (round(mask.published, 2), round(mask.right, 2)) == (8.46, 4.54)


@pytest.mark.parametrize("name", __main__.TABLES)
def test_the_tables_are_the_golden_ones(name, capsys):
    assert __main__.main([name]) == 0
    assert capsys.readouterr().out == (ROOT / f"tests/golden/roofline/{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "rows"), [("calibrate", 3), ("breakeven", 4)])
def test_the_document_shows_rows_of_its_commands(name, rows, capsys):
    assert __main__.main([name]) == 0
    printed = capsys.readouterr().out.splitlines()
    document = (ROOT / "docs/roofline.md").read_text(encoding="utf-8")
    _, _, after = document.partition(f"`python -m dlmbench.roofline {name}`")
    table = re.search(r"(?:\|.*\n)+", after)[0].splitlines()
    assert table[:2] == printed[:2]
    assert len(table) == 2 + rows
    assert set(table) <= set(printed)


def test_a_sampler_that_plans_no_forwards_has_no_prediction(monkeypatch):
    x, y = cell(LLAMA_8B, "hf", (1, 64, 64)), cell(LLADA_8B, "hf", (1, 64, 64), steps=16)
    for name in ("planned_forwards", "min_forwards"):
        monkeypatch.delattr(registry.load("samplers", "autoregressive"), name)
    assert corrected.predict(x, LLAMA_8B, H200, forwards=64) == Prediction(x.id)
    assert corrected.bounds_of(corrected.MeasuredCell(x, LLAMA_8B, H200, 1.0, 64)) is None
    made = predict(Plan((x, y)), H200)
    assert made.of(x) == Prediction(x.id)
    assert made.of(y).latency_s is not None
    assert "hf/autoregressive: no prediction: the sampler does not plan its forwards (docs/adding.md)" in made.notes


def test_an_engine_without_a_cost_has_only_a_floor_until_it_is_calibrated(monkeypatch):
    x = cell(LLAMA_8B, "hf", (1, 64, 64))
    floor = corrected.predict(x, LLAMA_8B, H200).floor_s
    monkeypatch.delattr(registry.load("engines", "hf"), "COST")
    assert corrected.predict(x, LLAMA_8B, H200) == Prediction(x.id, floor_s=floor)
    assert corrected.predict(x, LLAMA_8B, H200, corrected.IDEAL).latency_s >= floor
    assert any("no efficiencies known, hence no times" in n for n in predict(Plan((x,)), H200).notes)
    gone = replace(x, engine="of_another_machine")
    assert corrected.predict(gone, LLAMA_8B, H200) == Prediction(gone.id, floor_s=floor)
