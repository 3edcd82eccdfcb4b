"""The self-check's file: found by the run of the same environment, refused elsewhere, never half read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dlmbench.errors import BenchError
from dlmbench.results import Store, read_run
from dlmbench.results.selfcheck import (
    SELFCHECK,
    copy_selfcheck,
    merge_selfchecks,
    read_selfcheck,
    selfcheck_of,
    selfcheck_path,
    write_selfcheck,
)
from support.selfchecks import a_selfcheck
from support.synthetic_run import ENVIRONMENT


@pytest.fixture(autouse=True)
def state(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("DLMBENCH_SELFCHECK", raising=False)


def a_run(folder):
    Store.open(folder, ENVIRONMENT, "study").close()
    return folder


def test_the_file_is_kept_in_the_state_folder_by_environment(monkeypatch, tmp_path):
    assert selfcheck_path("abc") == tmp_path / "state/dlmbench/selfcheck/abc.json"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert selfcheck_path("abc") == Path.home() / ".local/state/dlmbench/selfcheck/abc.json"
    monkeypatch.setenv("DLMBENCH_SELFCHECK", str(tmp_path / "mine.json"))
    assert selfcheck_path("abc") == tmp_path / "mine.json"


def test_a_run_of_the_same_environment_picks_it_up(tmp_path):
    check, folder = a_selfcheck(ENVIRONMENT), a_run(tmp_path / "run")
    assert read_run(folder).selfcheck is None
    write_selfcheck(selfcheck_path(ENVIRONMENT.id), check)
    assert copy_selfcheck(folder, ENVIRONMENT) == ""
    assert read_run(folder).selfcheck == check


def test_without_one_the_run_says_how_to_get_it(tmp_path):
    assert "dlmbench selfcheck" in copy_selfcheck(tmp_path, ENVIRONMENT)
    assert not (tmp_path / SELFCHECK).exists()


def test_one_of_another_environment_is_ignored_with_a_hint(monkeypatch, tmp_path):
    path = tmp_path / "other.json"
    monkeypatch.setenv("DLMBENCH_SELFCHECK", str(path))
    write_selfcheck(path, a_selfcheck(replace(ENVIRONMENT, device="another GPU")))
    found, hint = selfcheck_of(ENVIRONMENT)
    assert found is None
    assert str(path) in hint
    assert "another GPU" in hint
    assert copy_selfcheck(tmp_path, ENVIRONMENT) == hint
    assert not (tmp_path / SELFCHECK).exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"device": "GPU"}', '{"floors": 1}'])
def test_a_damaged_file_is_named(tmp_path, text):
    path = tmp_path / "run" / SELFCHECK
    a_run(path.parent)
    path.write_text(text)
    for read in (lambda: read_selfcheck(path), lambda: read_run(path.parent)):
        with pytest.raises(BenchError) as caught:
            read()
        assert str(path) in caught.value.message
        assert "dlmbench selfcheck" in caught.value.hint


def test_what_a_later_version_adds_is_ignored(tmp_path):
    path, check = tmp_path / SELFCHECK, a_selfcheck()
    write_selfcheck(path, check)
    path.write_text(json.dumps({**json.loads(path.read_text()), "new": 1}))
    assert read_selfcheck(path) == check


def test_shards_of_several_hosts_keep_the_noisiest(tmp_path):
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, sd in zip(folders, (0.01, 0.03, None), strict=True):
        if sd is not None:
            write_selfcheck(folder / SELFCHECK, a_selfcheck(ENVIRONMENT, sd))
    merge_selfchecks(tmp_path / "merged", folders)
    assert read_selfcheck(tmp_path / "merged" / SELFCHECK) == a_selfcheck(ENVIRONMENT, 0.03)
    merge_selfchecks(tmp_path / "none", folders[2:])
    assert not (tmp_path / "none").exists()
