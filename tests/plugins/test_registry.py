"""The registry: what is found, and what is said of a plug-in that is broken, incomplete or there twice."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from dlmbench import registry
from dlmbench.errors import BenchError
from support.program import fails, run


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """A function that pretends an installed package has an entry point `name` whose module has the text `code`."""
    caches = (registry._modules, registry.summary, registry.load, registry.loadable, registry.knob_names)
    points: list[EntryPoint] = []

    def clear() -> None:
        for function in caches:
            function.cache_clear()

    def add(kind: str, name: str, code: str | None, module: str = "") -> None:
        module = module or f"installed_{name.replace('-', '_')}"
        if code is not None:
            (tmp_path / f"{module}.py").write_text(code)
        points.append(EntryPoint(name, module, f"dlmbench.{kind}"))
        clear()

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "entry_points", lambda group: [p for p in points if p.group == group])
    clear()
    yield add
    monkeypatch.undo()
    clear()


COMMIT = '''"""Commits nothing."""

from dlmbench.sampling.commit import threshold

KNOBS, SCHEDULED = threshold.KNOBS, False
confidence, decide = threshold.confidence, threshold.decide
'''


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_built_in_plug_in_can_be_loaded_and_has_a_summary(kind):
    assert registry.names(kind)
    assert registry.names(kind) == tuple(sorted(registry.names(kind))) == registry.loadable(kind)
    for name in registry.names(kind):
        assert registry.summary(kind, name)
        assert all(hasattr(registry.load(kind, name), a) for a in registry.KINDS[kind].required)


def test_an_entry_point_is_a_plug_in(installed):
    installed("commit", "mine", COMMIT)
    assert "mine" in registry.names("commit")
    assert registry.summary("commit", "mine") == "Commits nothing."
    assert registry.load("commit", "mine").SCHEDULED is False
    assert registry.attribute("commit", "mine", "SCHEDULED", None) is False


def test_the_name_of_a_prompt_source_has_dashes(installed):
    installed("prompts", "my_corpus", '"""Mine."""\nWINDOWS = SHUFFLED = False\nload = print\n')
    assert {"my-corpus", "wikitext-103"} <= set(registry.names("prompts"))
    assert registry.load("prompts", "my-corpus").load is print
    with pytest.raises(BenchError, match="unknown prompt source 'my_corpus'"):
        registry.load("prompts", "my_corpus")


def test_an_unknown_plug_in_is_met_with_the_nearest():
    with pytest.raises(BenchError, match="unknown commit rule 'treshold'") as error:
        registry.load("commit", "treshold")
    assert "threshold" in error.value.hint
    assert registry.attribute("commit", "treshold", "SCHEDULED", "default") == "default"


def test_a_name_may_not_be_used_twice(installed):
    installed("commit", "threshold", COMMIT, "another_threshold")
    with pytest.raises(BenchError, match=r"'threshold': dlmbench\.sampling\.commit\.threshold and another_threshold"):
        registry.names("commit")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (None, "ModuleNotFoundError: No module named 'installed_broken'"),
        ("import no_such_package\n", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("def (\n", "SyntaxError"),
    ],
)
def test_a_broken_plug_in_is_named_and_stops_no_other(installed, capsys, tmp_path, code, reason):
    installed("commit", "broken", code)
    with pytest.raises(BenchError, match=f"commit rule 'broken' cannot be imported from installed_broken: {reason}"):
        registry.load("commit", "broken")
    assert "broken" not in registry.loadable("commit")
    assert "threshold" in registry.all_knobs("masked_diffusion")
    exit_code, out, err = run(capsys, "list", "commit")
    assert exit_code == 0, err
    assert "broken" in out
    assert "threshold" in out
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("once\n")
    options = ("--model", "embedded:llada", "--prompt_file", prompts, "--new_tokens", 4, "--commit", "broken")
    fails(capsys, "generate", *options, says=f"commit rule 'broken' cannot be imported ... {reason}")


def test_a_missing_module_in_a_missing_package_is_listed(installed):
    installed("metrics", "gone", None, "no_such_package.gone")
    assert registry.summary("metrics", "gone") == "(broken: the module no_such_package.gone cannot be read)"


def test_a_plug_in_without_a_required_attribute_is_refused(installed):
    installed("cache", "half", '"""Half a cache."""\nUSES_KV_CACHE = True\n')
    with pytest.raises(BenchError, match=r"cache 'half' \(installed_half\) lacks KNOBS, span") as error:
        registry.load("cache", "half")
    assert "docs/adding.md" in error.value.hint
