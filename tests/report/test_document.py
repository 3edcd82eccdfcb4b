"""report.md from runs with known answers and from a recorded one: true numbers, no empty section, no markup."""

from __future__ import annotations

import functools
import itertools
import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markupsafe import Markup

from dlmbench import registry
from dlmbench.analysis.break_even import BreakEven
from dlmbench.analysis.contrasts import growth_shape
from dlmbench.analysis.stats import Interval
from dlmbench.analysis.study import analyse
from dlmbench.charts.figure import draw
from dlmbench.charts.frames import why_missing
from dlmbench.errors import BenchError
from dlmbench.experiment import load as configuration
from dlmbench.experiment.plan import expand
from dlmbench.report import document, page
from dlmbench.report.questions import answers
from dlmbench.report.source import Source
from dlmbench.report.tables import Column, tabulate
from dlmbench.report.text import escape, rounded, seconds, sig, spread, templates
from dlmbench.results import read_run
from dlmbench.slurm import submission
from dlmbench.tasks.records import TaskOutcome, TaskRun, TaskScore, TaskStore
from dlmbench.types import EnergyWindow, LeftOut, PromptSettings, Run, Score
from support.selfchecks import a_selfcheck
from support.synthetic_run import ENVIRONMENT, LLADA, LLAMA, baseline_cell, failed, measured, target_cell, tiny_run

STUDY = Path(__file__).parents[2] / "docs/study/h200-random"
REACHED = {None: {4: 2.0, 8: 1.5, 16: 0.85, 32: 0.85, 64: 0.85}}
PARSER = MarkdownIt("commonmark").enable("table")


def source(run: Run, draws: int = 200) -> Source:
    return Source(run, analyse(run, draws))


def answer(run: Run, question: str) -> str:
    """The answer to the question that contains `question`; "" where it is among those not measured."""
    found = [a for q, a in answers(source(run)).items() if question in q]
    assert len(found) == 1, question
    return found[0]


def without_ids(text: str) -> str:
    """The text without the ids of its values."""
    return re.sub(r"<!--.*?-->", "", text)


def sections(text: str) -> dict[str, str]:
    """Heading -> what stands below it, to the next heading of any level."""
    parts = re.split(r"(?m)^(#{1,6} .*)$", text)
    return dict(zip(parts[1::2], (p.strip() for p in parts[2::2]), strict=True))


def empty(text: str) -> list[str]:
    """Headings below which nothing stands, neither text nor a deeper heading."""
    parts = re.split(r"(?m)^(#{1,6}) (.*)$", text)
    marks, titles, bodies = parts[1::3], parts[2::3], parts[3::3]
    deeper = [len(a) < len(b) for a, b in itertools.pairwise(marks)] + [False]
    return [t for t, body, has in zip(titles, bodies, deeper, strict=True) if not body.strip() and not has]


# ---------------------------------------------------------------- known answers


def test_parity_break_even_and_speed_of_a_known_run():
    run = tiny_run(batches=(1, 8), blocks=(None,), nats=REACHED)
    text = document.compose(source(run))
    # 0.15 s over 16 steps of 0.01 s; at B=8 the baseline takes 8^0.2 and diffusion 8^0.8 as long.
    assert re.search(r"\| 1, 64\+64<!-- .* -->.* \| 16<!-- b1-p64-g64.as_good_from --> \| 0\.9[34]\d* \(", text)
    assert re.search(r"\| 8, 64\+64<!-- .* -->.* \| 16<!-- b8-p64-g64.as_good_from --> \| 0\.27\d* \(", text)
    batch = answer(run, "higher throughput at large batches")
    assert re.fullmatch(r"P=64, K=64: 0\.23\d*x \(.*\) at B=1, 0\.06\d+x \(.*\) at B=8\.", batch), batch
    assert re.search(r"tiny-llada, B=1, P=64, G=64 \| 1[45] \(14 to 15\)", without_ids(text))


@pytest.mark.parametrize(
    ("value", "answered"),
    [
        ((2.48, 2.44, 2.52), "2 (2 to 2)"),
        ((1.67, 1.6, 2.75), "1 (1 to 2)"),
        ((9.9, 9.7, 10.2), "9 (9 to 10)"),
        ((151.4, 149.6, 152.3), "151 (149 to 152)"),
        ((4.0, None, None), "about 4"),
        ((3.9999999, None, None), "about 4"),
        ((1.5, -0.4, 3.2), "1 (0 to 3)"),
    ],
)
def test_a_break_even_is_the_most_whole_steps_with_which_diffusion_is_faster(value, answered):
    assert BreakEven(0.0, 0.01, 0.0, *value, is_rough=value[1] is None, is_extrapolated=False).text() == answered


def test_a_break_even_between_measured_steps_is_not_called_rough():
    few = analyse(tiny_run(batches=(1,), blocks=(None,), processes=1, repetitions=3), 50).curves[0].break_even
    assert few is not None
    assert few.low is None
    assert few.text() == "15 (between K=8 and 16)"
    beyond = analyse(tiny_run(batches=(1,), blocks=(None,), steps=(4, 8), processes=1), 50).curves[0].break_even
    assert beyond is not None
    assert beyond.text() == "about 14"


def test_a_fixed_time_below_zero_is_not_called_noise():
    # Exact times, so no noise: 0.03 s from K=4 to 8 is 7.5 ms a step, and 0.02 - 4 * 0.0075 is below zero.
    times = ((baseline_cell(1), 0.15), (target_cell(4, None, 1), 0.02), (target_cell(8, None, 1), 0.05))
    results = tuple(measured(c, [t] * 6) for c, t in times)
    run = Run("f", "n", ENVIRONMENT, tuple(r.cell for r in results), (), results)
    shown = sections(without_ids(document.compose(source(run))))["### 5.5 Break-even"]
    assert "| setting | faster only up to k\\* | fixed time \\[ms\\] | time per step \\[ms\\] |" in shown
    assert "| below 0 | 7.50 |" in shown


def test_a_batch_below_eight_is_no_answer_on_high_batches():
    question = "higher throughput at large batches"
    assert answer(tiny_run(batches=(1, 4), blocks=(None,)), question) == ""
    assert answer(tiny_run(batches=(1, 8), blocks=(None,)), question)


def test_memory_growth_and_the_question_of_2048():
    lengths = ((64, 64), (960, 64), (1984, 64))
    run = tiny_run(batches=(1,), blocks=(None,), lengths=lengths, steps=(4, 8))
    growth = answer(run, "The KV cache makes")
    assert growth == "B=1: 203 MiB at N=128 to 3.17 GiB at N=2048, grows linearly (quadratic part of the growth: 0%)."
    assert "at N=2048" in answer(run, "explodes at 2,048")
    assert answer(tiny_run(batches=(1,), blocks=(None,)), "explodes at 2,048") == ""


LENGTHS = (128, 512, 1024, 2048)
WEIGHTS = 15 << 30


@pytest.mark.parametrize(
    ("bytes_at", "words"),
    [
        (lambda n: WEIGHTS + 280_000 * n, "grows linearly"),
        (lambda n: WEIGHTS + 280_000 * n + 5 * n * n, "grows linearly"),  # 4% of the growth
        (lambda n: WEIGHTS + 280_000 * n + 60 * n * n, "grows faster than linearly"),  # a third of it
        (lambda n: WEIGHTS + 6400 * n * n, "grows faster than linearly"),
        (lambda n: WEIGHTS + 10**9 * n**0.5, "grows slower than linearly"),
        # As measured in steps of an allocator: neither a line nor a parabola.
        (lambda n: {128: 15498, 512: 15598, 1024: 15632, 2048: 15970}[n] << 20, "has no clear shape"),
        (lambda n: WEIGHTS, "does not grow"),
    ],
)
def test_the_shape_of_memory_growth_does_not_depend_on_the_weights(bytes_at, words):
    shape = growth_shape(LENGTHS, [bytes_at(n) for n in LENGTHS])
    assert words in shape
    assert ("linearly" in shape) == ("linearly" in words)
    assert "unknown" in growth_shape(LENGTHS[:2], [bytes_at(n) for n in LENGTHS[:2]])


def test_quadratic_memory_is_not_called_linear():
    cells = [target_cell(8, None, 1, n - 64, 64) for n in LENGTHS]
    sizes = [WEIGHTS + s for s in (100 << 20, 1600 << 20, 6400 << 20, 25600 << 20)]
    results = tuple(measured(c, [1.0] * 6, m) for c, m in zip(cells, sizes, strict=True))
    run = Run("r", "r", ENVIRONMENT, tuple(cells), (), results)
    assert "grows faster than linearly (quadratic part of the growth: 100%)" in answer(run, "full length")


def test_warm_up_is_compared_with_the_timed_passes():
    # synthetic_run plants one warm-up of 50 s in each cell.
    assert "the slowest in 6 of 6 cells" in answer(tiny_run(batches=(1,), blocks=(None,)), "first passes")


def test_one_setting_alone_answers_a_claim_about_it():
    run = tiny_run(batches=(1,), blocks=(None,), steps=(8,))
    assert answer(run, "float32 is too slow") == ""
    slow = target_cell(8)
    fast = replace(slow, precision="bfloat16")
    both = Run("r", "r", ENVIRONMENT, (slow, fast), (), (measured(slow, [2.0] * 9), measured(fast, [1.0] * 9)))
    answered = answer(both, "float32 is too slow")
    assert answered == "Precision bfloat16 has 2.00 times the speed of float32, a difference shown in 1 of 1 pair."
    near = replace(both, results=(both.results[0], measured(fast, [1.95] * 9)))
    assert "shown in 0 of 1 pair" in answer(near, "float32 is too slow"), "one process shows nothing within 10%"
    # Where something else differs too, nothing follows.
    other = replace(fast, seed=3)
    mixed = replace(both, cells=(slow, other), results=(both.results[0], measured(other, [1.0] * 9)))
    assert answer(mixed, "float32 is too slow") == ""


def test_the_six_digit_perplexity_is_answered_by_a_likelihood():
    answered = answer(tiny_run(batches=(1,), blocks=(None,)), "9,900 times")
    assert re.search(r"1\.5\d*x \(", answered), answered  # exp(1.36 - 0.923)
    noise = tiny_run(batches=(1,), blocks=(None,), nats={None: dict.fromkeys((4, 8, 16, 32, 64), 900.0)})
    assert answer(noise, "9,900 times") == "Tiny-llada: over a million times."


def test_the_energy_of_a_token_is_compared_with_the_baselines():
    run = tiny_run(batches=(1,), blocks=(None,), nats=REACHED)
    question = "choice of steps mean for cost"
    assert answer(run, question) == ""
    joules = {"target": 6.4, "baseline": 3.2}
    results = tuple(
        replace(r, energy=(EnergyWindow(r.cell.id, 7, 20, 2.0, 20 * joules[r.cell.model.role]),)) for r in run.results
    )
    measured_run = replace(run, results=results)
    assert answer(measured_run, question) == "Energy of a token: 2.00 times the baseline's over all step counts."
    # 64 tokens for 6.4 and 3.2 J.
    assert re.search(
        r"\| 0\.100 \|\n", sections(without_ids(document.compose(source(measured_run))))["### 5.2 Every cell"]
    )


def test_streaming_is_answered_by_the_first_text():
    assert answer(tiny_run(batches=(1,)), "all at once") == (
        "Tiny-llada, one block, N=128: first text after 39.9 ms to 640 ms, the baseline's after 10.0 ms; "
        "tiny-llada, block 16, N=128: first text after 50.0 ms, the baseline's after 10.0 ms."
    )


@pytest.mark.parametrize("name", ["h200-native", "h200-random", "h200-x4-native"])
def test_no_text_is_whole_before_it_has_begun(name):
    """One block is the whole text: one traced generation may take longer than the median of many timed ones."""
    cells = [c for c in analyse(read_run(STUDY.with_name(name)), 20).cells if c.latency and c.first_text_s]
    assert any((c.traced_first_s or 0) > c.latency.median for c in cells if c.latency)
    assert all(c.first_text_s <= c.latency.median for c in cells if c.latency and c.first_text_s)


def test_task_accuracy_comes_from_the_run_folder(tmp_path):
    run = replace(tiny_run(batches=(1,), blocks=(None,)), folder=str(tmp_path))
    question = "Does task accuracy agree"
    assert answer(run, question) == ""
    base = TaskRun(task="arc", definition="abc", model=LLAMA, sampler="s")
    own = replace(base, model=LLADA, knobs=(("steps", 8),))
    random = replace(base, model=replace(LLADA, weights="random"))
    with TaskStore(tmp_path, "0.4.13") as store:
        for task_run, value in ((base, 0.75), (own, 0.5), (random, 0.25)):
            score = TaskScore(task_run.id, "arc", "acc", "none", value, 0.1, 20, True, "mean", value - 0.1, value + 0.1)
            store.add(TaskOutcome(task_run, "ok"), [score])
        store.write()
    assert answer(run, question) == (
        "Arc, tiny-llama: acc 0.75 (0.65 to 0.85); arc, tiny-llada, K=8: acc 0.50 (0.40 to 0.60)."
    )


# ---------------------------------------------------------------- the whole document


@functools.cache
def cases() -> dict[str, Run]:
    whole = tiny_run(batches=(1, 8), blocks=(None, 16))
    lost = tiny_run(batches=(1,), blocks=(None,))
    return {
        "whole": whole,
        "random": tiny_run(batches=(1, 8), blocks=(None,), weights="random"),
        "one step count": tiny_run(batches=(1,), blocks=(None,), steps=(16,)),
        "unscored": tiny_run(batches=(1,), blocks=(None,), scored=False),
        "no baseline": tiny_run(roles=("target",), batches=(1,)),
        "no target": tiny_run(roles=("baseline",)),
        "failed": replace(
            lost,
            results=tuple(failed(r.cell) for r in lost.results),
            left_out=(LeftOut("llada B=1", "steps 3 do not divide"),),
        ),
        "planned only": replace(lost, results=(), text_scores=()),
        "nothing": Run("f", "n", None, (), (), ()),
    }


@pytest.mark.parametrize("case", cases())
def test_no_section_is_empty_and_nothing_is_promised(case):
    text = document.compose(source(cases()[case], 50))
    assert empty(text) == []
    for word in (
        "To be completed",
        "TODO",
        "Markdown(",
        "object at",
        "{{",
        "{%",
        "&amp;gt;",
    ):
        assert word not in text, word
    assert re.findall(r"\b(None|nan|inf|True|False)\b", text) == []
    top = [h for h in sections(text) if h.startswith("## ")]
    assert [h.lstrip("# 0123456789.") for h in top] == [
        *("Abstract", "Introduction", "Related work", "Methodology", "Experimental setup", "Results", "Discussion"),
        *("Conclusion", "References", "Appendix A: Reproducibility", "Appendix B: The questions of the study"),
    ]
    assert "Large Language Diffusion with mAsking" in text
    assert "Language Latent Diffusion" not in text


def test_every_question_stands_once_measured_or_not():
    questions = list(answers(source(cases()["nothing"])))
    assert len(questions) == 31
    for run in cases().values():
        text = document.compose(source(run, 50))
        appendix = text.partition("## Appendix B")[2]
        for question in questions:
            assert appendix.count(escape(question)) == 1, question
            assert text.count(escape(question)) == 1, question
        rows, _, line = appendix.partition("Not measured by this run: ")
        answered = len(re.findall(r"(?m)^\| .* \|$", rows)) - 2
        assert answered + sum(escape(q) in line for q in questions) == len(questions)
    assert "| hypothesis" not in line  # the last run holds nothing
    assert all(escape(q) in line for q in questions)


def test_a_document_is_short_whatever_the_run():
    lengths = [(p, 64) for p in range(64, 1344, 64)]
    large = tiny_run((1, 8, 32), (None, 16, 32), (4, 8), lengths, repetitions=3, scored=False)
    for run in (*cases().values(), large, read_run(STUDY), read_run(STUDY.with_name("h200-native"))):
        text = document.compose(source(run, 50))
        assert document.words(text) <= document.MOST_WORDS == 3500
        abstract = sections(text)["## Abstract"]
        assert document.words(abstract) <= document.MOST_ABSTRACT == 150
        assert len(source(run, 50).answer.headline.split()) <= document.words(abstract)


def test_sentences_of_the_prose_are_short():
    for name in ("whole", "random", "failed", "nothing"):
        prose = re.sub(r"<!--.*?-->|\$[^$]*\$", "", document.compose(source(cases()[name], 50)).partition("## 8.")[0])
        paragraphs = (p for p in prose.split("\n\n") if not p.startswith(("|", "#", "!", "- ", "*Figure")))
        for sentence in (s for p in paragraphs for s in re.split(r"(?<=[.!?;:])\s", p)):
            assert len(sentence.split()) < 25, sentence
        assert not re.findall(r"(?i)\b(neither|told|strays)\b", prose)


def test_the_methods_are_those_of_the_run(tmp_path):
    whole = replace(tiny_run(batches=(1,), blocks=(None,), processes=1), folder=str(tmp_path), name="h200_native")
    shutil.copy(STUDY.with_name("h200-native") / "experiment.json", tmp_path)
    text = " ".join(document.compose(source(whole, 50)).split())
    assert (
        "Each cell is measured in one process, with 1 round of shuffled order in each. A round starts with 1 warm-up"
        in text
    )
    assert "on record and never counted. A pilot of 3 repetitions" in text
    assert "4 to 8, aimed at 1% of the median, within 2 s a cell" in text
    assert "On record: 20 timed repetitions a cell; processes: 1." in text
    assert "Noise floor not measured: 10% assumed." in text
    assert "tested together (Holm)" in text
    assert "(Benjamini and Hochberg)" in text
    assert f"dlmbench run --config config/experiments_h200_native.yaml --output_dir {tmp_path.name}" in text
    assert "# config/experiments_h200_native.yaml has changed since: protocol.processes: 1 on record, 3 now" in text
    three = document.compose(source(tiny_run(batches=(1,), blocks=(None,)), 50))
    assert "10% assumed" not in three
    assert "dlmbench run --config config/experiments_tiny.yaml --output_dir run\n" in three


OVERRIDES = (
    {},
    {"max_prompts": "8"},
    {"steps": "8,16", "batch_size": "2", "models": "llada"},
    {"seq_len": "96", "knobs": ("commit=random", "temperature=0.5,1.0")},
)


@pytest.mark.parametrize("options", OVERRIDES, ids=lambda o: "-".join(o) or "none")
def test_the_commands_lead_to_the_same_cells_and_prompts(options, tmp_path):
    path = "config/experiments_tiny.yaml"
    experiment = configuration.load(path, configuration.parse_overrides(**options))
    (tmp_path / "experiment.json").write_text(json.dumps(asdict(experiment)))
    run = Run(str(tmp_path), experiment.name, ENVIRONMENT, expand(experiment).cells, (), ())
    first, *_, last = source(run, 50).commands
    assert last == f"dlmbench report {tmp_path.name}"
    assert first in document.compose(source(run, 50))
    words = first.split()
    assert words[:4] == ["dlmbench", "run", "--config", path]
    assert len(words) == 6 + 2 * (len(options) + ("knobs" in options))
    names = ("steps", "batch_size", "seq_len", "max_prompts", "models")
    given = {
        k: words[words.index(f"--{k.replace('_', '-')}") + 1] for k in names if f"--{k.replace('_', '-')}" in words
    }
    knobs = [words[i + 1] for i, word in enumerate(words) if word == "--knob"]
    again = configuration.load(path, configuration.parse_overrides(knobs=knobs, **given))
    assert {c.id for c in expand(again).cells} == {c.id for c in run.cells}
    assert again.prompts == experiment.prompts


def test_the_commands_of_a_submitted_run_and_of_metrics_added_later(tmp_path):
    experiment = configuration.load("config/experiments_tiny.yaml")
    plan = expand(experiment)
    submission.create(experiment, plan, tmp_path, 3, None, submission.Resources(gres="gpu:h200:1")).save()
    score = Score(plan.cells[0].id, "unigram_entropy", 1.0, None, None, None, 8, "nats", True)
    run = Run(str(tmp_path), experiment.name, ENVIRONMENT, plan.cells, (), (), scores=(score,))
    options = "--shards 3 --gres gpu:h200:1"
    assert source(run, 50).commands == [
        f"dlmbench submit --config config/experiments_tiny.yaml {options} --output_dir {tmp_path.name}",
        f"dlmbench score {tmp_path.name} --metrics unigram_entropy",
        f"dlmbench report {tmp_path.name}",
    ]
    (tmp_path / "submission.json").write_text("{}")
    assert "submission.json is not the file" in source(run, 50).commands[0]


def test_no_folder_of_the_users_own_is_in_a_report(tmp_path):
    experiment = configuration.load("config/experiments_tiny.yaml")
    prompts = PromptSettings("file", 8, "/home/jane/prompts/mine.txt")
    (tmp_path / "experiment.json").write_text(json.dumps(asdict(replace(experiment, prompts=prompts))))
    run = tiny_run(batches=(1,), blocks=(None,))
    results = [
        replace(r, cell=replace(r.cell, model=replace(r.cell.model, source=f"~/models/{r.cell.model.key}")))
        for r in run.results
    ]
    made = source(replace(run, folder=str(tmp_path), results=tuple(results), cells=tuple(r.cell for r in results)), 50)
    for text in (document.compose(made), page.compose(made)):
        assert "mine.txt" in text
        assert tmp_path.name in text
        for folder in ("/home/jane", "~/models", "\\~/models", str(tmp_path)):
            assert folder not in text


def test_cut_tables_compare_both_models():
    lengths = [(p, 64) for p in range(64, 1344, 64)]
    large = tiny_run((1, 8), (None, 16), (4, 8), lengths, repetitions=3)
    many = tiny_run((1, 2, 4, 8), (None, 16), (4, 8, 16, 32, 64), lengths[:2], repetitions=3)
    seen = 0
    for run in (large, many, read_run(STUDY.with_name("h200-native"))):
        text = sections(document.compose(source(run, 50)))
        for heading in ("### 5.2 Every cell", "### 5.3 Quality by steps"):
            if "more row" in text[heading]:
                seen += 1
                for model in {c.model.key for c in run.cells}:
                    assert re.search(rf"(?m)^\| {model}\b", text[heading]), (heading, model)
    assert seen == 4


def test_a_selfcheck_says_what_cannot_be_shown_on_this_machine():
    run = tiny_run(batches=(1,), blocks=(None,), processes=1)
    found = a_selfcheck(sd_log_upper=0.01)
    for engine, sentence in (
        ("native", "Differences under 3% cannot be shown here (self-check of this machine)."),
        ("hf", "Noise floor not measured: 10% assumed."),  # of another engine than the one that ran
    ):
        checked = replace(found, floors=tuple(replace(f, engine=engine) for f in found.floors))
        one = replace(run, selfcheck=checked)
        for text in (document.compose(source(one, 50)), page.compose(Source(one, analyse(one, 50)))):
            assert sentence in text


def test_a_commit_with_uncommitted_changes_is_a_finding():
    run = tiny_run(batches=(1,), blocks=(None,))
    for commit, found in (("abc", False), ("abc-dirty", True), (None, False)):
        dirty = replace(run, environment=replace(ENVIRONMENT, git_commit=commit))
        assert (
            "uncommitted changes" in sections(document.compose(source(dirty, 50)))["### 6.1 Findings, with advice"]
        ) == found


def test_random_weights_claim_no_quality():
    text = document.compose(source(cases()["random"]))
    assert "Speed only: random weights." in text.partition("## 1. ")[0]
    assert "Not measured" in sections(text)["### 5.3 Quality by steps"]
    assert "Not measured" in sections(text)["### 5.4 Steps to parity by metric and margin"]
    assert "not the published 8B checkpoints" in text


def test_cited_works_exist_and_are_all_cited():
    text = document.compose(source(cases()["nothing"]))
    body, _, references = text.partition("## 8. References")
    references, _, appendix = references.partition("## Appendix")
    listed = {int(n) for n in re.findall(r"(?m)^(\d+)\. ", references)}
    cited = {int(n) for n in re.findall(r"\\?\[(\d+)\\?\]", body + appendix)}
    assert cited == listed == set(range(1, len(listed) + 1))
    assert len(re.findall(r"arXiv:\d{4}\.\d{5}", references)) >= 11


def test_written_with_figures_beside_it_by_relative_path(tmp_path):
    run = tiny_run(batches=(1,), blocks=(None,), steps=(8, 16))
    found = Source(run, analyse(run, 50))
    for folder in (tmp_path / "a folder", tmp_path / "raw_data"):
        folder.mkdir()
        text = document.write(found, folder, draw(found.figures, folder)).read_text()
        pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
        drawable = [
            n
            for n in registry.names("figures")
            if not why_missing(registry.load("figures", n).points(run, found.study))
        ]
        assert len(pictures) == len(drawable) > 5
        assert all((folder / p).is_file() for p in pictures)
        module = registry.load("figures", "latency_vs_steps")
        assert escape(module.caption(module.points(run, found.study)))[:60] in text


def test_a_figure_that_fails_is_named_and_the_document_written(tmp_path, monkeypatch):
    def broken(run, study):
        raise ZeroDivisionError("planted <b>")

    for name in registry.names("figures"):
        monkeypatch.setattr(registry.load("figures", name), "points", broken)
    run = cases()["nothing"]
    found = Source(run, analyse(run, 50))
    text = document.write(found, tmp_path, draw(found.figures, tmp_path)).read_text()
    assert "(ZeroDivisionError: planted &lt;b&gt;)" in text.partition("Not drawn: ")[2]


def test_the_recorded_study(tmp_path):
    run = read_run(STUDY)
    text = document.compose(source(run))
    assert "30 cells: 22 complete and 8 with timed repetitions but not complete." in text
    assert "NVIDIA H200" in text
    assert "2 warm-ups" in text
    # From the records: 1366.93 ms over 547.27 ms.
    assert re.search(r"\| 8 \| 1 \| 1,984 \| 547 \(542 to 559\) \| 2\.5", without_ids(text))


def test_a_broken_experiment_file_is_reported_in_one_line(tmp_path):
    shutil.copytree(STUDY, tmp_path / "run")
    (tmp_path / "run/experiment.json").write_text(json.dumps({"protocol": []}))
    run = read_run(tmp_path / "run")
    with pytest.raises(BenchError, match=r"experiment\.json is not the file"):
        document.compose(Source(run, analyse(run, 50)))


# ---------------------------------------------------------------- escaping

EVIL = (
    "<script>alert(1)</script>",
    "</style><img src=x onerror=1>",
    "[click](javascript:alert(1))",
    "![x](http://evil.example/x.png)",
    "a | b | c",
    "`code` ``` fence",
    "*bold* _em_ __x__ ~~gone~~",
    "# heading",
    "- item",
    "1. item",
    "1) item",
    "===",
    "---",
    "> quote",
    "line\n\n# next\r\n* item",
    "&lt;b&gt; &copy;",
    "http://evil.example www.evil.example me@evil.example",
    "$x^2$",
    "\\",
    "trailing\\",
    "| - |",
    "=cmd|' /C calc'!A0",
    "\u202eright to left",
)


@pytest.mark.parametrize("evil", EVIL)
def test_escaped_text_is_text_wherever_it_stands(evil):
    for wrapped in (escape(evil), f"before {escape(evil)} after", f"- {escape(evil)}", f"> {escape(evil)}"):
        tokens = [t for top in PARSER.parse(wrapped) for t in (top, *(top.children or ()))]
        kinds = {t.type.removesuffix("_open").removesuffix("_close") for t in tokens}
        assert kinds <= {"paragraph", "inline", "text", "text_special", "bullet_list", "list_item", "blockquote"}, (
            wrapped
        )
        assert "http://" not in wrapped
        assert "www." not in wrapped
    columns = (Column("a", evil, lambda row: row[0]), Column("b", "b", lambda row: row[1]))
    table = tabulate(columns, [(evil, evil), ("x", "y")], ["", ""])
    made = PARSER.parse(without_ids(templates(escape).get_template("markdown.j2").module.show(table, None)))
    assert sum(t.type == "tr_open" for t in made) == 3
    assert sum(t.type == "td_open" for t in made) == 4
    assert not {t.type for top in made for t in top.children or ()} - {"text", "text_special"}


def test_escaping_loses_nothing_and_happens_once():
    for evil in EVIL:
        shown = "".join(t.content for top in PARSER.parse(f"x {escape(evil)}") for t in top.children or ())
        wanted = " ".join(re.sub(r"[\u202e]", " ", evil).split())
        assert shown.replace("\\", "") == f"x {wanted}".replace("\\", "")
        assert escape(escape(evil)) == escape(evil)
    assert escape("low_confidence") == "low_confidence"
    assert escape(Markup("*meant*")) == "*meant*"


def test_a_run_full_of_markup_makes_a_document_without_any(tmp_path):
    evil = " ".join(EVIL)
    models = {"baseline": replace(LLAMA, key=evil, source=evil), "target": replace(LLADA, key=evil, source=evil)}
    whole = tiny_run(batches=(1,), blocks=(None,), scored=False)
    results = tuple(
        measured(replace(r.cell, model=models[r.cell.model.role], prompts=evil), [0.1] * 6) for r in whole.results
    )
    run = Run(
        folder=str(tmp_path),
        name=evil,
        environment=replace(ENVIRONMENT, device=evil, platform=evil),
        cells=tuple(r.cell for r in results),
        left_out=(LeftOut(evil, evil),),
        results=(*results, failed(baseline_cell(64, model=models["baseline"]), reason=evil)),
    )
    text = document.compose(source(run, 50))
    plain = document.compose(source(tiny_run(batches=(1,), blocks=(None,), scored=False), 50))
    assert "<script" not in text.lower()
    assert "<img" not in text
    kinds = [{t.type for top in PARSER.parse(x) for t in (top, *(top.children or ()))} for x in (text, plain)]
    assert not kinds[0] - kinds[1] - {"text_special"}
    assert "html_block" not in kinds[0] | kinds[1]
    inside = [t for top in PARSER.parse(text) for t in top.children or ()]
    assert not [t for t in inside if t.type in ("link_open", "image")]
    # The only markup are the ids of values, as comments.
    assert all(re.fullmatch(r"<!-- [a-z0-9_.-]+ -->", t.content) for t in inside if t.type == "html_inline")


def test_generated_texts_are_quoted_as_text(tmp_path):
    run = replace(tiny_run(batches=(1,), blocks=(None,), steps=(8, 16)), folder=str(tmp_path))
    evil = "</p><script>alert(1)</script> | # x ` [a](javascript:1)\n\n# heading"
    lines = [
        {"cell_id": c.id, "prompt_index": 0, "prompt_hash": "h", "output_ids": [1], "text": evil, "forwards": 1}
        for c in run.cells
    ]
    rest = {"useful_tokens": None, "output_bytes": None}
    (tmp_path / "generations.jsonl").write_text("".join(json.dumps({**line, **rest}) + "\n" for line in lines))
    shown = sections(document.compose(source(run, 50)))["### 5.6 What the text looks like"]
    assert shown.count("alert(1)") == 3
    assert "<script" not in shown
    assert "\n# heading" not in shown


# ---------------------------------------------------------------- numbers


def test_numbers_have_no_absurd_precision():
    assert [sig(x) for x in (0, 0.012345, 1.2345, 99.96, 12345.6, 1e-7)] == [
        *("0", "0.0123", "1.23", "100", "12,300", "1.00e-07")
    ]
    assert [seconds(x) for x in (0.0123456, 1.23456)] == ["12.3 ms", "1.23 s"]
    run = tiny_run(batches=(1,), blocks=(None,))
    point = analyse(run, 100).curves[0].points[0]
    assert point.speedup is not None
    assert re.fullmatch(r"3\.7\d?x \(3\.\d+ to 3\.\d+\)", spread(point.speedup, "x"))
    shown = [
        rounded(Interval(v, v - w / 2, v + w / 2))
        for v, w in ((1.866, 0.046), (0.5396, 0.015), (423.6, 11), (12345, 900))
    ]
    assert shown == ["1.87", "0.540", "424", "12,300"]
    assert rounded(Interval(27.20034, 27.2, 27.2004)) == "27.20"
    assert rounded(Interval(float("inf"), 1.0, 2.0)) == "not finite"
    assert spread(Interval(0.15, 0.012, 1.5), "x") == "0.15x (0.01 to 1.50)"


def test_the_same_files_give_the_same_document():
    run = tiny_run(batches=(1,), blocks=(None,))
    assert document.compose(source(run)) == document.compose(source(run))
