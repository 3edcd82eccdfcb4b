import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dlmbench.errors import BenchError
from dlmbench.measure import environment
from dlmbench.types import Environment


def test_the_fingerprint_of_a_cpu_tells_processors_and_thread_counts_apart():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = environment.fingerprint("cpu")
        torch.set_num_threads(2)
        two = environment.fingerprint("cpu")
    finally:
        torch.set_num_threads(before)
    assert (one.cpu_threads, two.cpu_threads) == (1, 2)
    assert one.id != two.id
    assert one.cpu in one.device
    assert one.torch == torch.__version__
    assert (one.driver, one.cuda, one.power_cap_w) == (None, None, None)
    assert one.memory_bytes > 2**28
    assert os.uname().nodename not in vars(one).values()


def test_the_comparable_fields_exist():
    assert set(Environment.COMPARABLE) <= set(Environment.__dataclass_fields__)


def test_a_commit_is_claimed_only_for_a_checkout_of_our_own(monkeypatch, tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        clean = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True, env=clean)

    ours, foreign = tmp_path / "src" / "dlmbench", tmp_path / ".venv" / "lib" / "dlmbench"
    for package in (ours, foreign):
        package.mkdir(parents=True)
    (ours / "a.py").write_text("1\n")
    git("init")
    monkeypatch.setattr(environment, "_PACKAGE", ours)
    assert environment.git_commit() is None
    git("add", "src")
    git("commit", "-m", "first")
    commit = environment.git_commit()
    assert len(commit) == 40
    (ours / "a.py").write_text("2\n")
    assert environment.git_commit() == f"{commit}-dirty"
    monkeypatch.setattr(environment, "_PACKAGE", foreign)
    assert environment.git_commit() is None


def test_measuring_imports_no_torch_until_it_measures():
    code = (
        "import sys, dlmbench.measure.protocol, dlmbench.measure.memory;"
        "import dlmbench.measure.environment, dlmbench.results;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what happens without a GPU")
def test_a_missing_gpu_is_an_error_the_user_can_fix():
    with pytest.raises(BenchError, match="no CUDA device"):
        environment.fingerprint("cuda")


def test_a_processor_without_a_name_is_called_by_its_architecture(monkeypatch):
    read = Path.read_text
    unnamed = "processor\t: 0\nFeatures\t: fp asimd\n"
    shown = lambda self, **options: unnamed if self == Path("/proc/cpuinfo") else read(self, **options)  # noqa: E731
    monkeypatch.setattr(Path, "read_text", shown)
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert environment.fingerprint("cpu").device == "CPU aarch64"


@pytest.mark.parametrize(("cuda", "hip", "shown"), [("12.8", None, "12.8"), (None, "6.4.1", "rocm 6.4.1")])
def test_the_fingerprint_of_a_gpu_has_its_memory_and_runtime(monkeypatch, cuda, hip, shown):
    for name, value in {
        "is_available": True,
        "get_device_name": "a card",
        "device_count": 2,
        "current_device": 1,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    memory = {0: 10, 1: 24 << 30}
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: SimpleNamespace(total_memory=memory[i]))
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", hip)
    found = environment.fingerprint("cuda")
    assert (found.device, found.device_count, found.memory_bytes, found.cuda) == ("a card", 2, 24 << 30, shown)
