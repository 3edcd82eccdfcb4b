"""Configuration: what a YAML file may say, what each slip is answered with, and what overrides replace."""

import json
from pathlib import Path

import pytest
import yaml

from dlmbench import registry
from dlmbench.errors import BenchError
from dlmbench.experiment import load
from dlmbench.experiment import plan as grid
from dlmbench.types import SamplerAxes

ROOT = Path(__file__).parents[2]

BASE = """
name: study
models:
  llama: {family: llama, source: meta-llama/Meta-Llama-3-8B}
  llada: {family: llada, source: GSAI-ML/LLaDA-8B-Base}
grid:
  lengths: {total: [512, 1024], new_tokens: 128}
  batch_size: [1, 4]
  samplers:
    autoregressive: {temperature: 0}
    masked_diffusion: {steps: [32, 64]}
metrics: [likelihood]
"""


def written(folder, text):
    path = folder / "study.yaml"
    path.write_text(text)
    return path


def changed(folder, **changes):
    """The base file with some dotted keys replaced (`grid__steps` and so on are spelt out by the caller)."""
    document = yaml.safe_load(BASE)
    for dotted, value in changes.items():
        *parents, last = dotted.split("__")
        node = document
        for parent in parents:
            node = node[parent]
        node[last] = value
    return written(folder, yaml.safe_dump(document))


def complaint(path, **overrides):
    with pytest.raises(BenchError) as caught:
        load.load(path, load.parse_overrides(**overrides))
    text = str(caught.value)
    assert "\n" not in text
    assert "pydantic" not in text
    assert "validation error" not in text
    return text


def axis(experiment, sampler, knob, number=0):
    found = next(s for s in experiment.grids[number].samplers if s.sampler == sampler)
    return dict(found.knobs)[knob]


# ---------------------------------------------------------------- what a file says


def test_a_file_becomes_an_experiment(tmp_path):
    found = load.load(written(tmp_path, BASE))
    assert [(m.key, m.family, m.role, m.weights) for m in found.models] == [
        ("llama", "llama", "baseline", "pretrained"),
        ("llada", "llada", "target", "pretrained"),
    ]
    only = found.grids[0]
    assert only.lengths == ((384, 128), (896, 128))
    assert (only.batch_sizes, only.engines, only.precision, only.attention) == ((1, 4), ("hf",), "bfloat16", "math")
    assert only.samplers[1] == SamplerAxes("masked_diffusion", (("steps", (32, 64)),))
    assert (found.prompts.source, found.prompts.count, found.protocol.warmup) == ("wikitext-103", 32, 3)


@pytest.mark.parametrize(
    ("lengths", "pairs"),
    [
        ({"total": [128, 512], "prompt_ratio": 0.5}, ((64, 64), (256, 256))),
        ({"total": 512, "new_tokens": [128, 256]}, ((384, 128), (256, 256))),
        ({"prompt_tokens": 128, "new_tokens": [128, 2048]}, ((128, 128), (128, 2048))),
        ({"prompt_tokens": 64, "total": [128, 128, 192]}, ((64, 64), (64, 128))),
    ],
)
def test_every_form_of_the_lengths(tmp_path, lengths, pairs):
    assert load.load(changed(tmp_path, grid__lengths=lengths)).grids[0].lengths == pairs


def test_grids_are_a_list_or_one_and_merges_are_not_duplicates(tmp_path):
    text = BASE.replace("grid:\n", "grid:\n  - &first\n").replace("\n  lengths", "\n    lengths")
    text = text.replace("\n  batch_size", "\n    batch_size").replace("\n  samplers", "\n    samplers")
    text = text.replace("\n    autoregressive", "\n      autoregressive").replace("\n    masked", "\n      masked")
    text = text.replace("metrics", "  - &second {<<: *first, batch_size: 8}\n  - {<<: *second, batch_size: 9}\nmetrics")
    assert [g.batch_sizes for g in load.load(written(tmp_path, text)).grids] == [(1, 4), (8,), (9,)]


def test_scientific_numbers_are_numbers_and_metrics_have_settings(tmp_path):
    text = BASE.replace("[likelihood]", "[repetition: {size: 4}]") + "protocol: {half_width: 1e-2}\n"
    found = load.load(written(tmp_path, text))
    assert found.protocol.half_width == 0.01
    assert (found.metrics, found.metric_settings) == (("repetition",), {"repetition": {"size": 4}})


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_files_load_and_every_combination_runs(path):
    plan = grid.expand(load.load(path))
    assert plan.cells
    assert plan.left_out == ()
    assert path.read_text().startswith("# yaml-language-server: $schema=experiments.schema.json\n")


def test_primary_experiment_is_the_published_design():
    found = load.load(ROOT / "config" / "experiments.yaml")
    assert {m.source for m in found.models} == {"meta-llama/Meta-Llama-3-8B", "GSAI-ML/LLaDA-8B-Base"}
    cells = grid.expand(found).cells
    assert {c.sequence_length for c in cells} == {512, 1024}
    assert {c.batch_size for c in cells} == {1, 4}
    assert {c.steps for c in cells} == {None, 32, 64, 128}
    assert {(c.new_tokens, c.precision) for c in cells} == {(128, "bfloat16")}
    assert (found.prompts.count, found.protocol.warmup) == (32, 3)


def test_schema_knows_every_knob_and_is_stable():
    schema = load.json_schema()
    knobs = schema["$defs"]["masked_diffusion_knobs"]["properties"]
    assert "default" not in schema["$defs"]["Lengths"]["properties"]["prompt_ratio"], (
        "it has none: total alone is refused"
    )
    assert {"steps", "block_length", "threshold", "factor", "published_loop"} <= set(knobs)
    assert json.dumps(schema) == json.dumps(load.json_schema())


# ---------------------------------------------------------------- slips


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"protocool": {}}, "unknown key 'protocool'. Did you mean 'protocol'?"),
        ({"grid__batchsize": 1}, "grid: unknown key 'batchsize'. Did you mean 'batch_size'?"),
        ({"grid__samplers__masked_diffusion__step": 4}, "grid.samplers.masked_diffusion: unknown key 'step'. Did you"),
        ({"grid__samplers__masked_difusion": {}}, "Did you mean 'masked_diffusion'?"),
        ({"grid__samplers__masked_diffusion__commit": "treshold"}, "Did you mean 'threshold'?"),
        ({"grid__engine": "hff"}, "grid.engine: unknown engine 'hff'. Did you mean 'hf'?"),
        ({"models__llama__family": "lama"}, "models.llama.family: unknown family 'lama'. Did you mean 'llama'?"),
        ({"models__llama__source": "embedded:arr"}, "Did you mean 'embedded:ar'?"),
        ({"metrics": ["likelyhood"]}, "metrics[0]: unknown metric 'likelyhood'. Did"),
        ({"prompts": {"source": "wikitext-3"}}, "prompts.source: unknown prompt source 'wikitext-3'. Did you mean"),
        ({"grid__precision": "bf16"}, "grid.precision: is 'bf16'"),
        ({"grid__batch_size": []}, "grid.batch_size: is empty"),
        ({"grid__batch_size": [1, 0]}, "grid.batch_size[1]: is 0, but must be at least 1"),
        ({"grid__batch_size": "four"}, "grid.batch_size: is 'four', not a whole number"),
        ({"grid__batch_size": 1.5}, "grid.batch_size: is 1.5, not a whole number"),
        ({"grid__batch_size": True}, "grid.batch_size: is true, not a whole number"),
        ({"grid__samplers__masked_diffusion__steps": [32, -1]}, "steps[1]: is -1, but must be at least 1"),
        ({"grid__samplers__masked_diffusion__steps": []}, "masked_diffusion.steps: is empty"),
        ({"grid__samplers__masked_diffusion__cache": True}, "cache: is true, not text"),
        ({"grid__samplers__autoregressive__temperature": None}, "temperature: is null, not a number"),
        ({"grid__lengths": {"total": 128, "new_tokens": 128}}, "128 is too short for a prompt and 128 new"),
        ({"grid__lengths": {"total": 64, "prompt_tokens": 64}}, "64 is too short for new tokens and a prompt of"),
        ({"grid__lengths": {"total": 64}}, "grid.lengths: total given, which does not determine the lengths"),
        ({"grid__lengths": {"total": 64, "prompt_ratio": None}}, "grid.lengths: total given, which does not determine"),
        ({"grid__lengths": {"total": None, "new_tokens": 8}}, "grid.lengths: new_tokens given, which does not"),
        ({"grid__lengths": {"total": 64, "prompt_ratio": 1.0}}, "prompt_ratio: is 1.0, but must be less than 1"),
        ({"protocol": {"max_repeats": 5}}, "protocol: min_repeats 10 is more than max_repeats 5"),
        ({"protocol": {"warmup": -1}}, "protocol.warmup: is -1, but must be at least 0"),
        ({"protocol": {"max_time_s": float("inf")}}, "protocol.max_time_s: is inf, not a finite number"),
        ({"prompts": {"size": "small", "count": 4}}, "prompts: both size and count are given"),
        ({"prompts": {"source": "file"}}, "prompts: source file needs a path"),
        ({"models": {}}, "models: is empty"),
        ({"name": 8}, "name: is 8, not text. Put it in quotes"),
        ({"models": [1]}, "models: is a list, not a mapping of keys to values"),
        (
            {"grid__samplers__masked_diffusion__block_length": [16, 48]},
            "grid.samplers.masked_diffusion.block_length: 48 is invalid for every length",
        ),
        ({"grid__samplers__masked_diffusion": {"steps": [3, 8], "block_length": [16, 32]}}, "steps: 3 is invalid for"),
        (
            {"grid__samplers__masked_diffusion__threshold": 0.5},
            "grid.samplers.masked_diffusion.threshold: has no effect: no selected part of the sampler has this knob. "
            "It belongs to commit: threshold",
        ),
    ],
)
def test_a_slip_is_named_with_its_place_and_remedy(tmp_path, changes, expected):
    path = changed(tmp_path, **changes)
    text = complaint(path)
    assert text.startswith(f"{path}: ")
    assert expected in text


def test_a_missing_key_is_named(tmp_path):
    text = BASE.replace("family: llama, ", "")
    assert "models.llama: 'family' is missing" in complaint(written(tmp_path, text))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"# only a comment\n", "is empty"),
        (b"\x80\x81\x00PK", "is not a text file"),
        (b"- a\n- b\n", "is not a mapping"),
        (b"name: a\nmodels: [1, 2\ngrid: 3\n", "line 3"),
        (b"name: a\ngrid:\n  x: 1\nname: b\n", "line 4: duplicate key 'name'"),
        (b"name: a\n\tgrid: 1\n", "line 2"),
        (b"name: a\nseed: \x07\n", "line 2: a character that YAML does not allow"),
        (b"name: a\n---\nname: b\n", "line 2"),
        (b"name: !!python/object/apply:os.getcwd []\n", "line 1"),
        (b"name: a\nhardware: &x {again: *x}\n", "'models' is missing"),
        (b"[" * 5000, "is nested too deeply"),
    ],
)
def test_broken_files(tmp_path, content, expected):
    path = tmp_path / "study.yaml"
    path.write_bytes(content)
    text = complaint(path)
    assert str(path) in text
    assert expected in text


def test_missing_file_and_folder(tmp_path):
    assert f"no experiment file at {tmp_path / 'none.yaml'}" in complaint(tmp_path / "none.yaml")
    assert "cannot read" in complaint(tmp_path)


# ---------------------------------------------------------------- overrides


def test_overrides_replace_the_axes(tmp_path):
    overrides = load.parse_overrides(
        steps="16, 32", batch_size="8", seq_len="256", max_prompts="4", models="llada", knobs=["block_length=null,32"]
    )
    found = load.load(written(tmp_path, BASE), overrides)
    assert axis(found, "masked_diffusion", "steps") == (16, 32)
    assert axis(found, "masked_diffusion", "block_length") == (None, 32)
    assert (found.grids[0].batch_sizes, found.grids[0].lengths) == ((8,), ((128, 128),))
    assert found.prompts.count == 4
    assert [m.key for m in found.models] == ["llada"]


def test_max_prompts_is_a_limit_and_a_prompt_file_is_meant_whole(tmp_path):
    path = written(tmp_path, BASE)
    assert load.load(path, load.parse_overrides(max_prompts="500")).prompts.count == 32
    mine = load.load(path, load.parse_overrides(prompt_file="mine.txt", max_prompts="5")).prompts
    assert (mine.source, mine.path, mine.count, mine.limit) == ("file", "mine.txt", None, 5)


def test_sequence_length_keeps_what_the_file_fixed(tmp_path):
    ratio = changed(tmp_path, grid__lengths={"total": [128], "prompt_ratio": 0.25})
    assert load.load(ratio, load.parse_overrides(seq_len="64")).grids[0].lengths == ((16, 48),)
    prompt = changed(tmp_path, grid__lengths={"prompt_tokens": 96, "new_tokens": [8, 16]})
    assert load.load(prompt, load.parse_overrides(seq_len="100")).grids[0].lengths == ((96, 4),)
    assert "is too short for new tokens" in complaint(prompt, seq_len="96")


def test_a_part_chosen_on_the_command_line_drops_the_knobs_it_lacks(tmp_path):
    found = load.load(written(tmp_path, BASE), load.parse_overrides(knobs=["commit=threshold", "threshold=0.5,0.9"]))
    cells = [c for c in grid.expand(found).cells if c.model.key == "llada"]
    assert {c.steps for c in cells} == {None}
    assert sorted({c.knob("threshold") for c in cells}) == [0.5, 0.9]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"steps": "0"}, "--steps: '0' is not a positive whole number"),
        ({"steps": "16,,32"}, "--steps: ''"),
        ({"steps": "many"}, "--steps: 'many'"),
        ({"batch_size": "-4"}, "--batch-size: '-4'"),
        ({"batch_size": "1.5"}, "--batch-size: '1.5'"),
        (
            {"max_prompts": "0"},
            "--max-prompts: '0' is not a positive whole number. Write, for example, --max-prompts 16",
        ),
        ({"max_prompts": "1,2"}, "more than one number"),
        ({"seq_len": "128"}, "128 is too short for a prompt and 128 new tokens"),
        ({"models": "lama"}, "has no model 'lama'. Did you mean 'llama'?"),
        ({"knobs": ["steps"]}, "'steps' is not name=value"),
        ({"knobs": ["stpes=3"]}, "unknown knob 'stpes'. Did you mean 'steps'?"),
        ({"knobs": ["threshold=0.5"]}, "--knob threshold has no effect"),
        ({"knobs": ["commit=threshold", "threshold=0.9,5"]}, "threshold: 5.0 is invalid for every length"),
        ({"knobs": ["threshold=nan"]}, "is 'nan', not a number"),
        ({"knobs": ["factor_quirk=perhaps"]}, "is 'perhaps', not true or false"),
        ({"knobs": ["cache=dul"]}, "unknown value of cache 'dul'. Did you mean 'dual'?"),
        ({"knobs": ["commit=threshold"], "steps": "8"}, "--steps has no effect"),
        ({"models": "llama", "steps": "8"}, "--steps has no effect: none of the models llama uses this knob"),
        ({"models": "llama", "knobs": ["commit=random"]}, "--knob commit has no effect"),
        ({"knobs": [f"threshold={'[' * 5000}"]}, "is not a value"),
        ({"steps": "8", "knobs": ["steps=4"]}, "steps are set both by --steps and by --knob"),
        ({"steps": "3", "knobs": ["block_length=16"]}, "steps: 3 is invalid for every length"),
    ],
)
def test_overrides_that_cannot_be_followed(tmp_path, overrides, expected):
    assert expected in complaint(written(tmp_path, BASE), **overrides)


@pytest.mark.parametrize("is_there", [True, False])
def test_bertscore_is_appended_where_the_metric_is_there(tmp_path, monkeypatch, is_there):
    path = written(tmp_path, BASE)
    known = {"likelihood": "", **({"bertscore": ""} if is_there else {})}
    real = registry._modules
    monkeypatch.setattr(registry, "_modules", lambda kind: known if kind == "metrics" else real(kind))
    overrides = load.parse_overrides(compute_bertscore=True)
    if is_there:
        assert load.load(path, overrides).metrics == ("likelihood", "bertscore")
    else:
        assert "bertscore" in complaint(path, compute_bertscore=True)
