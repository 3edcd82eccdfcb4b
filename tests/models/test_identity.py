"""The content of a checkpoint: equal wherever the folder is, another whenever something that is measured differs."""

import json
import shutil
from dataclasses import replace

import pytest

from dlmbench.errors import BenchError
from dlmbench.experiment.plan import with_models
from dlmbench.models import identity
from dlmbench.types import ModelSpec, Plan
from support.checkpoints import LLADA, LLAMA, write_checkpoint
from support.synthetic_run import target_cell

SPEC = ModelSpec("llama", "llama", "somewhere", "baseline")
RANDOM = replace(SPEC, weights="random")


@pytest.fixture
def folder(tmp_path):
    made = write_checkpoint(tmp_path / "model", LLAMA, shards=2)
    (made / "tokenizer.json").write_text('{"version": "1.0"}')
    return made


def test_a_copy_under_another_name_has_the_same_content(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    # Spacing, order of keys and provenance in config.json, and files that nobody reads, make no difference.
    config = {"transformers_version": "9.9", "_name_or_path": "x", **dict(reversed(LLAMA.items()))}
    (copy / "config.json").write_text(json.dumps(config, indent=2))
    (copy / "README.md").write_text("read me")
    other = ModelSpec("renamed", "llama", str(copy), "target", revision="main")
    assert identity.fingerprint(copy, other) == identity.fingerprint(folder, SPEC)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: write_checkpoint(folder, LLAMA, shards=2, seed=1),
        lambda folder: write_checkpoint(folder, LLAMA | {"rope_theta": 10000.0}, shards=2),
        lambda folder: write_checkpoint(folder, LLAMA, shards=3),
        lambda folder: (folder / "tokenizer.json").write_text('{"version": "2.0"}'),
        lambda folder: (folder / "tokenizer.json").unlink(),
        lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"),
        lambda folder: (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}'),
    ],
    ids=["weights", "config", "shards", "tokenizer", "no tokenizer", "template", "template in config"],
)
def test_whatever_changes_a_measurement_changes_the_content(folder, change):
    before = identity.fingerprint(folder, SPEC)
    change(folder)
    assert identity.fingerprint(folder, SPEC) != before


def test_large_files_are_sampled_at_every_tensor(folder, monkeypatch):
    monkeypatch.setattr(identity, "READ_WHOLE_BYTES", 0)
    monkeypatch.setattr(identity, "SAMPLE_BYTES", 8)
    before = identity.fingerprint(folder, SPEC)
    path = folder / "model-00002-of-00002.safetensors"
    data = bytearray(path.read_bytes())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    starts = [8 + int.from_bytes(data[:8], "little") + t["data_offsets"][0] for t in header.values()]
    for start in starts:
        changed = bytearray(data)
        changed[start] ^= 1
        path.write_bytes(changed)
        assert identity.fingerprint(folder, SPEC) != before
    # As documented: beyond the sample a change is not seen.
    data[starts[0] + 8] ^= 1
    path.write_bytes(data)
    assert identity.fingerprint(folder, SPEC) == before


def test_random_weights_are_known_by_their_architecture(folder, tmp_path):
    assert identity.fingerprint(None, replace(RANDOM, source="8b")) == identity.fingerprint(
        None, replace(RANDOM, source="8b", key="other", role="target")
    )
    bare = write_checkpoint(tmp_path / "bare", LLAMA)
    same = write_checkpoint(tmp_path / "same", LLAMA | {"torch_dtype": "float32"}, seed=1)
    wider = write_checkpoint(tmp_path / "wider", LLAMA | {"hidden_size": 64})
    contents = [identity.fingerprint(f, RANDOM) for f in (bare, same, wider, folder)]
    assert contents[0] == contents[1]
    assert len(set(contents)) == 3, "another architecture; and a tokenizer, which makes other prompts"
    assert identity.fingerprint(bare, SPEC) != contents[0]


def test_a_checkpoint_that_cannot_be_read_is_named(folder):
    path = folder / "model-00001-of-00002.safetensors"
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(BenchError, match=r"model-00001-of-00002\.safetensors is not a safetensors file"):
        identity.fingerprint(folder, SPEC)
    path.unlink()
    with pytest.raises(BenchError, match=r"model-00001-of-00002\.safetensors is missing"):
        identity.fingerprint(folder, SPEC)
    (folder / "config.json").unlink()
    with pytest.raises(BenchError, match=r"config\.json is missing"):
        identity.fingerprint(folder, SPEC)


def test_a_replaced_checkpoint_is_refused(folder):
    spec = identity.with_content(SPEC, folder)
    assert identity.with_content(spec, folder) == spec
    write_checkpoint(folder, LLAMA, shards=2, seed=1)
    says = f"model llama: {folder} contains a different checkpoint .* {spec.content} then"
    with pytest.raises(BenchError, match=says):
        identity.with_content(spec, folder)


def test_what_is_not_on_this_machine_stays_unknown(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub, nowhere = replace(SPEC, source="org/not-here"), replace(SPEC, source=str(tmp_path / "nowhere"))
    here, named = replace(SPEC, source=str(folder)), replace(RANDOM, source="8b")
    assert identity.with_known_content([hub, nowhere]) == (hub, nowhere)
    assert all(spec.content for spec in identity.with_known_content([here, named]))
    assert identity.with_content(hub, None) == hub  # a served model, for instance


def test_one_checkpoint_is_one_model_of_a_run(tmp_path):
    folders = [write_checkpoint(tmp_path / name, LLADA) for name in "ab"]
    specs = [ModelSpec(f.name, "llada", str(f), "target") for f in folders]
    plan = Plan(tuple(target_cell(4, model=spec) for spec in specs))
    with pytest.raises(BenchError, match="models 'a' and 'b' are the same checkpoint"):
        with_models(plan, [identity.with_content(s, f) for s, f in zip(specs, folders, strict=True)])
