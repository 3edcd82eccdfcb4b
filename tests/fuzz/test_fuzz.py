"""A few broken files of each kind in every test run; `make fuzz` reads thousands."""

from __future__ import annotations

import ctypes
import html
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from fuzz import campaign
from fuzz.campaign import SCRIPT, TARGETS, Target, TooSlowError, fuzz


@pytest.fixture(autouse=True)
def alarm(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # inputs that fail are kept there
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_broken_files_are_accepted_or_refused_and_nothing_else(target):
    accepted, refused = fuzz(target, 25, seed=1)
    assert accepted + refused == 25
    assert refused


def of(read):
    """A kind of file that is read by `read`."""
    return Target("kind", lambda folder: Path(shutil.copy(__file__, folder / "file")), read)


def test_a_file_that_is_read_for_too_long_is_a_failure_also_where_the_reader_catches_everything(monkeypatch):
    def read(path):
        try:
            time.sleep(5)
        except Exception:
            pytest.fail("caught by the reader")

    monkeypatch.setattr(campaign, "LONGEST_S", 1)
    with pytest.raises(TooSlowError):
        fuzz(of(read), 1, seed=1)


@pytest.mark.parametrize(
    "write",
    [
        lambda path, elsewhere: path.write_bytes(b"changed"),
        lambda path, elsewhere: path.unlink(),
        lambda path, elsewhere: (path.parent / "new").touch(),
        lambda path, elsewhere: (elsewhere / "new").write_text("a"),
        lambda path, elsewhere: (elsewhere / "new").mkdir(),
        lambda path, elsewhere: (elsewhere / "old").write_text("a"),
        lambda path, elsewhere: (elsewhere / "old").rename(elsewhere / "renamed"),
        lambda path, elsewhere: subprocess.run(["true"], check=True),
        lambda path, elsewhere: ctypes.CDLL(None).truncate(str(path).encode(), 3),  # unseen by the interpreter
    ],
)
def test_a_reader_that_writes_anywhere_is_found(write, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "old").touch()
    with pytest.raises(AssertionError):
        fuzz(of(lambda path: write(path, elsewhere)), 1, seed=1)
    fuzz(of(lambda path: path.read_bytes()), 1, seed=1)


@pytest.mark.parametrize(
    ("name", "old"),
    [("generations.jsonl", "went"), ("experiment.json", '"description": "'), ("records.jsonl", "Intel(R)")],
)
def test_a_script_in_a_run_folder_stands_in_its_report_as_text_and_one_that_would_run_is_found(
    name, old, tmp_path, monkeypatch
):
    target = next(t for t in TARGETS if t.name == f"run folder, {name}")
    path = target.prepare(tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, old + SCRIPT))
    pages, compose = [], campaign.page.compose
    monkeypatch.setattr(campaign.page, "compose", lambda source: pages.append(compose(source)) or pages[-1])
    target.read(path)
    assert "&lt;script&gt;stranger()" in pages[0]
    monkeypatch.setattr(campaign.page, "compose", lambda source: html.unescape(compose(source)))
    with pytest.raises(AssertionError):
        target.read(path)
