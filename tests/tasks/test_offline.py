"""Without network tasks use the cache or fail at once, with advice that helps."""

from __future__ import annotations

import time

import pytest

from dlmbench.errors import BenchError
from dlmbench.models import hub
from dlmbench.tasks import sweep

pytest.importorskip("lm_eval")


@pytest.fixture
def no_network(monkeypatch):
    import datasets.config
    import huggingface_hub
    from huggingface_hub import constants

    class Session:
        def head(self, url: str, timeout: float) -> None:
            assert timeout <= 10
            raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    for module in (constants, datasets.config):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    return datasets.config


def test_a_hub_that_does_not_answer_is_not_asked_again(no_network):
    with hub.offline_if_unreachable() as is_offline:
        assert is_offline
        assert hub.is_offline()
        assert no_network.HF_HUB_OFFLINE
    assert not hub.is_offline()
    assert not no_network.HF_HUB_OFFLINE


def test_a_hub_that_answers_is_used(no_network, monkeypatch):
    import huggingface_hub

    session = type("Session", (), {"head": lambda self, url, timeout: None})
    monkeypatch.setattr(huggingface_hub, "get_session", session)
    with hub.offline_if_unreachable() as is_offline:
        assert not is_offline
        assert not hub.is_offline()


def test_a_task_whose_data_are_not_here_fails_fast_with_the_way_to_get_them(no_network, monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    (tmp_path / "t.yaml").write_text(
        "task: far_away\ndataset_path: nobody/no-such-data\ntest_split: test\noutput_type: generate_until\n"
        'doc_to_text: "{{q}}"\ndoc_to_target: "{{a}}"\n'
    )
    begun = time.monotonic()
    with pytest.raises(BenchError) as caught:
        sweep._load(sweep.TaskListArgs(("far_away",), include_path=tmp_path))
    assert time.monotonic() - begun < 20
    assert "the data of task 'far_away' are not in the cache" in caught.value.message
    assert "dlmbench tasks -t far_away --limit 1" in caught.value.hint
    assert "HF_HOME" in caught.value.hint
    assert "YAML" not in caught.value.hint


def test_a_task_with_a_mistake_still_gets_the_advice_about_its_file(no_network, tmp_path):
    (tmp_path / "t.yaml").write_text(
        "task: local\ndataset_path: json\ndataset_kwargs: {data_files: {test: nowhere.jsonl}}\ntest_split: test\n"
        'output_type: generate_until\ndoc_to_text: "{{q}}"\ndoc_to_target: "{{a}}"\n'
    )
    with pytest.raises(BenchError) as caught:
        sweep._load(sweep.TaskListArgs(("local",), include_path=tmp_path))
    assert "Check its YAML file" in caught.value.hint
