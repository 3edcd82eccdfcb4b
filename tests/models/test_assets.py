"""Assets: what is found in a cache, what is missing in it, and errors that say how to get it, never with a token."""

import json
import struct
import subprocess
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import errors

from dlmbench.errors import BenchError
from dlmbench.models import assets, hub, loading
from dlmbench.models.families import llada, llama
from dlmbench.types import Experiment, ModelSpec, PromptSettings, ProtocolSettings

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_averysecretone"
LLAMA = ModelSpec("llama", "llama", "org/llama", "baseline")


def shard(path, size=16):
    header = json.dumps({"x": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))


def checkpoint(folder, config=llama.KNOWN["tiny"]):
    """A model folder of two shards, as the hub's cache holds it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name in names:
        shard(folder / name)
    index = {"weight_map": {"a": names[0], "b": names[1], "c": names[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def in_cache(cache, name, kind="model"):
    """The folder where the cache keeps the snapshot of a repository."""
    repository = cache / f"{kind}s--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return repository / "snapshots" / COMMIT


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    return tmp_path / "hub"


def experiment(*models, source="tiny", path=None):
    return Experiment("study", models, (), PromptSettings(source, 8, path), ProtocolSettings(), ())


def verified(*models, **more):
    return assets.download(experiment(*models, **more), local_files_only=True)


# ---------------------------------------------------------------- folders


def test_a_local_folder_is_itself(tmp_path):
    folder = checkpoint(tmp_path / "mine")
    assert loading.resolve_model(ModelSpec("m", "llama", str(folder), "baseline")) == folder


def test_a_snapshot_in_the_cache_is_found_without_network(cache, tmp_path):
    folder = checkpoint(in_cache(cache, "org/llama"))
    assert loading.resolve_model(LLAMA) == folder
    other = checkpoint(in_cache(tmp_path / "fast", "org/other"))
    spec = ModelSpec("m", "llama", "org/other", "baseline")
    assert loading.resolve_model(spec, tmp_path / "fast") == other
    pinned = ModelSpec("m", "llama", "org/llama", "baseline", revision=COMMIT)
    assert loading.resolve_model(pinned) == folder


def test_random_weights_of_a_named_architecture_need_no_files(cache):
    assert loading.resolve_model(ModelSpec("m", "llada", "8b", "target", weights="random")) is None


def test_random_weights_of_a_repository_need_no_weights(cache):
    folder = checkpoint(in_cache(cache, "org/llama"))
    for file in folder.glob("*.safetensors"):
        file.unlink()
    spec = ModelSpec("m", "llama", "org/llama", "baseline", weights="random")
    assert loading.resolve_model(spec) == folder
    with pytest.raises(BenchError, match=r"model-00001-of-00002.safetensors is missing"):
        loading.resolve_model(LLAMA)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("org/absent", "model org/absent is not in the cache and https://huggingface.co cannot be reached"),
        ("./absent", "no model folder at ./absent"),
        ("absent", "no model folder at absent"),
        ("org/not a name", "neither a folder here nor the name of a hub repository"),
        ("embedded:nothing", "unknown embedded model 'embedded:nothing'"),
    ],
)
def test_a_model_that_cannot_be_found(cache, source, expected):
    with pytest.raises(BenchError) as caught:
        loading.resolve_model(ModelSpec("m", "llama", source, "baseline"))
    assert expected in caught.value.message
    assert caught.value.hint
    if source.startswith("embedded:"):
        assert caught.value.hint.endswith("Known: embedded:ar, embedded:llada")


# ---------------------------------------------------------------- verification


def test_a_complete_model_is_ready(cache):
    checkpoint(in_cache(cache, "org/llama"))
    (report,) = verified(LLAMA)
    assert report.is_ready
    assert (report.files, report.name) == (5, "org/llama")
    assert report.line.startswith("model org/llama: 5 files, ")


def _shorten(path):
    path.write_bytes(path.read_bytes()[:-1])


def _header(path, offsets):
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": offsets}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def _pickled(folder):
    for file in folder.glob("*safetensors*"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"x")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda f: (f / "model-00002-of-00002.safetensors").unlink(), "model-00002-of-00002.safetensors is missing"),
        (lambda f: (f / "model-00002-of-00002.safetensors").write_bytes(b""), "00002.safetensors is empty"),
        (lambda f: (f / "model-00001-of-00002.safetensors").write_bytes(b"x" * 99), "is not a safetensors file"),
        (lambda f: _header(f / "model-00001-of-00002.safetensors", [0, "a"]), "is not a safetensors file"),
        (lambda f: _header(f / "model-00001-of-00002.safetensors", [0, 2**62]), "not a whole safetensors file"),
        (lambda f: _shorten(f / "model-00001-of-00002.safetensors"), "has 85 bytes of 86"),
        (lambda f: (f / "model.safetensors.index.json").write_text("{}"), "index.json has no weight_map"),
        (lambda f: (f / "config.json").unlink(), "config.json is missing"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is damaged"),
        (lambda f: (f / "config.json").write_text(json.dumps(llada.KNOWN["tiny"])), "model_type = 'llada'"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer.json is damaged"),
        (_pickled, "only pickled weights, which are refused"),
    ],
)
def test_what_is_missing_or_broken_is_named(cache, damage, expected):
    damage(checkpoint(in_cache(cache, "org/llama")))
    (report,) = verified(LLAMA)
    assert not report.is_ready
    assert expected in report.line
    assert "dlmbench download --config" in report.line
    assert "https://huggingface.co/org/llama" in report.line


def test_missing_assets_are_listed_with_the_others(cache):
    named = ModelSpec("r", "llada", "tiny", "target", weights="random")
    reports = assets.download(
        experiment(LLAMA, named, source="wikitext-103"), extra_model_ids=["org/judge"], local_files_only=True
    )
    assert [(r.kind, r.name, r.is_ready) for r in reports] == [
        ("model", "org/llama", False),
        ("model", "llada tiny (random weights)", True),
        ("model", "org/judge", False),
        ("dataset", "Salesforce/wikitext", False),
    ]


def test_a_data_set_in_the_cache(cache):
    folder = in_cache(cache, "Salesforce/wikitext", "dataset") / "wikitext-103-v1"
    folder.mkdir(parents=True)
    table = folder / "validation-00000-of-00001.parquet"
    table.write_bytes(b"")
    assert verified(source="wikitext-103")[0].problems == (f"{table.name} is empty",)
    for broken in (b"PAR1 cut short", b"x"):
        table.write_bytes(broken)
        assert verified(source="wikitext-103")[0].problems == (f"{table.name} is not a whole Parquet file",)
    table.write_bytes(b"PAR1 whole PAR1")
    assert verified(source="wikitext-103")[0].is_ready


def test_a_prompt_file_is_looked_for(tmp_path):
    (missing,) = verified(source="file", path=str(tmp_path / "p.txt"))
    assert "there is nothing at this path" in missing.line
    (tmp_path / "p.txt").write_text("a")
    assert verified(source="file", path=str(tmp_path / "p.txt"))[0].is_ready


# ---------------------------------------------------------------- fetching


def _raised(kind):
    if issubclass(kind, errors.HfHubHTTPError):
        response = SimpleNamespace(status_code=503, headers={}, request=None)
        return kind(f"Authorization: Bearer {TOKEN}", response=response)
    return kind(f"Authorization: Bearer {TOKEN}")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (errors.GatedRepoError, "org/llama is gated"),
        (errors.RepositoryNotFoundError, "model 'org/llama' was not found on the hub"),
        (errors.RevisionNotFoundError, "has no revision"),
        (errors.HfHubHTTPError, "the hub answered with status 503"),
        (errors.LocalEntryNotFoundError, "cannot be reached"),
        (ConnectionError, "it failed with ConnectionError"),
        (RuntimeError, "it failed with RuntimeError"),
    ],
)
def test_an_error_of_the_hub_is_reported_with_advice_and_without_the_token(cache, monkeypatch, kind, expected):
    def refuse(name, **options):
        if not options.get("local_files_only"):
            assert options["token"] == TOKEN
        raise _raised(errors.LocalEntryNotFoundError if options.get("local_files_only") else kind)

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(BenchError) as caught:
        assets.download(experiment(LLAMA), token=TOKEN)
    shown = "".join(traceback.format_exception(caught.value))
    assert expected in shown
    assert "https://huggingface.co" in shown or "run `dlmbench download" in shown
    assert TOKEN not in shown
    assert caught.value.__context__ is None


def test_a_full_disk_is_named(cache, monkeypatch):
    def refuse(name, **options):
        raise OSError(28, "whatever the system says")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(BenchError, match="No space left on device"):
        hub.fetch(hub.Repository("org/llama", "model"))


def test_no_pickle_and_no_code_is_ever_asked_for(cache, monkeypatch):
    from huggingface_hub.utils import filter_repo_objects

    folder, asked = checkpoint(in_cache(cache, "org/llama")), {}

    def answer(name, **options):
        asked.update(options)
        return [] if options.get("dry_run") else str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", answer)
    assert assets.download(experiment(LLAMA))[0].is_ready
    there = [
        "config.json",
        "a.safetensors",
        "tokenizer.json",
        "model.py",
        "pytorch_model.bin",
        "x.pth",
        "original/a.json",
    ]
    kept = filter_repo_objects(there, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"])
    assert list(kept) == ["config.json", "a.safetensors", "tokenizer.json"]


def test_a_token_is_itself_or_in_a_file(tmp_path):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert assets.read_token(None) is None
    assert assets.read_token(f" {TOKEN} ") == assets.read_token(str(file)) == TOKEN
    for bad in ("", "two words", "hf_\u00e9"):
        with pytest.raises(BenchError) as caught:
            assets.read_token(bad)
        assert not bad or bad not in str(caught.value)


def test_a_token_file_that_is_not_there_is_not_taken_for_a_token(tmp_path):
    for bad in ("~/.hf_tokn", "~hf_tokn", str(tmp_path / "hf_tokn"), "secrets/hf_tokn", str(tmp_path)):
        with pytest.raises(BenchError, match=r"--hf-token.*Give the token, or a readable file") as caught:
            assets.read_token(bad)
        assert bad not in str(caught.value), "it may be a token after all"


# ---------------------------------------------------------------- the script


def test_the_script_verifies_and_exits_with_2_in_one_line_on_errors(tmp_path):
    def run(*arguments):
        command = [sys.executable, str(ROOT / "scripts" / "download_assets.py"), *arguments]
        env = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PATH": ""}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)

    missing = run("--config", "none.yaml", "--local_files_only")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr.startswith("dlmbench: no experiment file at none.yaml")
    assert missing.stderr.count("\n") == 1
    offline = run("--config", str(ROOT / "config" / "experiments.yaml"), "--local-files-only")
    assert offline.returncode == 2
    assert [line.split(":")[0] for line in offline.stderr.splitlines()] == [
        "model meta-llama/Meta-Llama-3-8B",
        "model GSAI-ML/LLaDA-8B-Base",
        "dataset Salesforce/wikitext",
        "dlmbench",
    ]
    assert "3 of 3 assets are not ready" in offline.stderr.splitlines()[-1]
