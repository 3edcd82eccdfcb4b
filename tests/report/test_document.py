"""report.md from runs with known answers and from a recorded one: true numbers, no empty section, no markup."""

from __future__ import annotations

import functools
import itertools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from dlmbench import registry
from dlmbench.analysis.break_even import BreakEven
from dlmbench.analysis.study import analyse
from dlmbench.errors import BenchError
from dlmbench.report import document
from dlmbench.report import figures as report_figures
from dlmbench.report.discussion import THEMES, ask
from dlmbench.report.performance_answers import growth_shape
from dlmbench.report.source import Source, load_settings
from dlmbench.report.text import Markdown, escape, seconds, sig, spread, table
from dlmbench.results import read_run
from dlmbench.tasks.records import TaskDifference, TaskOutcome, TaskRun, TaskScore, TaskStore
from dlmbench.types import EnergyPass, LeftOut, Run
from support.synthetic_run import ENVIRONMENT, LLADA, LLAMA, baseline_cell, failed, measured, target_cell, tiny_run

STUDY = Path(__file__).parents[2] / "docs/study/h200-random"
REACHED = {None: {4: 2.0, 8: 1.5, 16: 0.85, 32: 0.85, 64: 0.85}}
PARSER = MarkdownIt("commonmark").enable("table")


def source(run: Run, draws: int = 200) -> Source:
    return Source(run, analyse(run, draws), load_settings(run))


def answer(run: Run, question: str) -> str:
    """The answer to the question that contains `question`, with its list."""
    (found,) = [a for group in ask([source(run)]).values() for a in group if question in a.question.text]
    ((_, answered),) = found.answers
    return "\n".join([f"[{answered.state}] {answered.text}", *answered.items])


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
    assert "reached at K=16" in answer(run, "How many steps")
    there = answer(run, "latency higher or lower")
    # 0.15 s over 16 steps of 0.01 s; at B=8 the baseline takes 8^0.2 and diffusion 8^0.8 as long.
    assert re.search(r"B=1, .* 0\.9[34]\dx \(.*slower", there), there
    assert re.search(r"B=8, .* 0\.27\dx \(.*slower", there), there
    batch = answer(run, "parallelises better")
    assert re.search(r"K=64: 0\.23\dx \(.*\) at B=1; 0\.06\d+x \(.*\) at B=8", batch), batch
    assert "against the hypothesis" in batch
    assert "[measured]" in batch
    text = document.compose([source(run)])
    assert re.search(r"tiny-llada, B=1, P=64, G=64 \| K=15\.0 \(14\.\d to 15\.\d\)", text), sections(text)[
        "### 5.5 Break-even"
    ]


@pytest.mark.parametrize(
    ("value", "answered"),
    [
        ((2.48, 2.44, 2.52), "2.5 (2.4 to 2.5)"),
        ((1.67, 1.6, 1.75), "1.7 (1.6 to 1.8)"),
        ((9.9, 9.7, 10.2), "9.9 (9.7 to 10.2)"),
        ((91.4, 90.6, 92.3), "91.4 (90.6 to 92.3)"),
        ((151.4, 149.6, 152.3), "151 (150 to 152)"),
        ((4.0, None, None), "4.0"),
        ((1.5, -0.4, 3.2), "1.5 (0.0 to 3.2)"),
    ],
)
def test_the_ends_of_a_break_even_have_the_digits_of_the_value(value, answered):
    assert BreakEven(0.0, 0.01, 0.0, *value, is_extrapolated=False, share_crossing=1.0).text() == answered


def test_a_fixed_time_below_zero_is_not_called_noise():
    # Exact times, so no noise: 0.03 s from K=4 to 8 is 7.5 ms a step, and 0.02 - 4 * 0.0075 is below zero.
    times = ((baseline_cell(1), 0.15), (target_cell(4, None, 1), 0.02), (target_cell(8, None, 1), 0.05))
    results = tuple(measured(c, [t] * 6) for c, t in times)
    run = Run("f", "n", ENVIRONMENT, tuple(r.cell for r in results), (), results)
    shown = sections(document.compose([source(run)]))["### 5.5 Break-even"]
    assert "| below 0 | 7.50 ms |" in shown


def test_the_best_known_break_even_leads_and_the_weakest_are_left_out():
    # k* is 15 everywhere: outside K=4 to 8 at eight lengths, between two step counts at one, among four at the last.
    swept = [(tuple(range(100, 900, 100)), (4, 8)), ((1000,), (8, 32)), ((1100,), (4, 8, 16, 32))]
    runs = [tiny_run((1,), (None,), ks, [(prompt, 64) for prompt in prompts], scored=False) for prompts, ks in swept]
    results = tuple(r for run in runs for r in run.results)
    text = document.compose([source(replace(runs[0], cells=tuple(r.cell for r in results), results=results))])
    parts = sections(text)
    advice = re.findall(r"(?m)^- .*P=(\d+), G=64: diffusion saves time below K=\S+ \([^)]*\)(, extrapolated)?", text)
    assert advice[:3] == [("1100", ""), ("1000", ""), ("100", ", extrapolated")]
    assert "2 more settings" in next(body for title, body in parts.items() if "7.3" in title)
    first = re.findall(r"(?m)^> With 64 new tokens after prompts of (\d+)", text)
    assert first == ["1100", "1000", "100", "200", "300", "400"]
    rows = re.findall(r"P=(\d+), G=64 \|", parts["### 5.5 Break-even"])
    assert rows == [str(prompt) for prompts, _ in swept for prompt in prompts], "the table keeps the plan's order"


def test_a_batch_below_eight_is_no_answer_on_high_batches():
    answered = answer(tiny_run(batches=(1, 4), blocks=(None,)), "parallelises better")
    assert answered.startswith("[in part]")
    assert "batches above 4 were not measured" in answered


def test_memory_growth_and_the_question_of_2048():
    lengths = ((64, 64), (960, 64), (1984, 64))
    run = tiny_run(batches=(1,), blocks=(None,), lengths=lengths, steps=(4, 8))
    growth = answer(run, "KV cache makes")
    # 203 MiB at N = 128, and proportional to N: 203 * 1024 / 128 KiB a token.
    assert "1,620 KiB more" in growth
    assert "memory grows linearly: at 3 lengths it deviates from a line by 0% of the growth at most" in growth
    exploded = answer(run, "explode")
    assert exploded.startswith("[measured]")
    assert "16x as long" in exploded
    assert "16.0x the memory" in exploded or "16x the memory" in exploded
    short = answer(tiny_run(batches=(1,), blocks=(None,)), "explode")
    assert short.startswith("[not measured]")
    assert "N=128" in short


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
    grown = answer(run, "full length")
    assert "memory grows faster than linearly" in grown
    assert "the quadratic term of a fit makes up 100% of the growth" in grown


def test_warm_up_is_compared_with_the_timed_passes():
    # synthetic_run plants one warm-up of 50 s in each cell.
    answered = answer(tiny_run(batches=(1,), blocks=(None,)), "first passes")
    assert "in 6 of 6 cells" in answered


def test_one_setting_alone_answers_a_claim_about_it(tmp_path):
    run = tiny_run(batches=(1,), blocks=(None,), steps=(8,))
    assert answer(run, "float32 is too slow").startswith("[not measured]")
    slow = target_cell(8)
    fast = replace(slow, precision="bfloat16")
    both = Run("r", "r", ENVIRONMENT, (slow, fast), (), (measured(slow, [2.0] * 9), measured(fast, [1.0] * 9)))
    answered = answer(both, "float32 is too slow")
    assert answered.startswith("[measured]")
    assert "bfloat16 runs at 2.00x" in answered
    # Where something else differs too, nothing follows.
    other = replace(fast, seed=3)
    mixed = replace(both, cells=(slow, other), results=(both.results[0], measured(other, [1.0] * 9)))
    assert "in other settings as well" in answer(mixed, "float32 is too slow")


def test_the_six_digit_perplexity_is_answered_by_a_likelihood():
    answered = answer(tiny_run(batches=(1,), blocks=(None,)), "times the baseline's.")
    assert "9,900" not in answered
    assert re.search(r"1\.5\d?x \(", answered), answered  # exp(1.36 - 0.923)
    assert "no meaning" in answered


def test_cost_starts_with_equal_quality():
    run = tiny_run(batches=(1,), blocks=(None,), nats=REACHED)
    question = "choice of steps mean for the cost"
    rates = answer(run, question)
    assert rates.startswith("[in part] No setting has the energy of both models")
    assert re.search(r"at equal quality diffusion generates \S+ \(\S+ to \S+\) tokens/s at K=16, the baseline", rates)
    # 64 tokens for 6.4 and 3.2 J.
    joules = {"target": 6.4, "baseline": 3.2}
    results = tuple(
        replace(r, samples=tuple(replace(s, energy_j=joules[r.cell.model.role]) for s in r.samples))
        for r in run.results
    )
    answered = answer(replace(run, results=results), question)
    assert answered.startswith("[measured]")
    assert "for 0.100 (0.100 to 0.100) J per token at K=16, the baseline" in answered
    assert "for 0.0500 (0.0500 to 0.0500) J per token: 2.00x (2.00 to 2.00) the baseline's energy per token" in answered
    once = tuple(replace(r, energy=EnergyPass(r.cell.id, 7, 20, 2.0, joules[r.cell.model.role])) for r in run.results)
    assert "2.00x (no interval) the baseline's energy" in answer(replace(run, results=once), question)


def test_streaming_is_answered_by_blocks():
    answered = answer(tiny_run(batches=(1,)), "streams")
    assert "one block, B=1, P=64, G=64: diffusion at K=4 shows nothing before the end" in answered
    assert "block 16, B=1, P=64, G=64: diffusion at K=4 shows its first finished block (after 50.0 ms)" in answered
    assert "first token after 10.0 ms" in answered


def test_task_accuracy_comes_from_the_run_folder(tmp_path):
    run = replace(tiny_run(batches=(1,), blocks=(None,)), folder=str(tmp_path))
    question = "Do other metrics"
    without = answer(run, question)
    assert without.startswith("[in part] Not scored: ")
    assert "task accuracy." in without.splitlines()[0]
    settings = ("hf", "float32", "auto", 0, "sampler", None, 64, None, None, None, False)
    runs = {
        m.key: TaskRun("arc", "abc", m, "s", knobs, *settings) for m, knobs in ((LLAMA, ()), (LLADA, (("steps", 8),)))
    }
    random = TaskRun("arc", "abc", replace(LLADA, weights="random"), "s", (), *settings)
    own, base = runs[LLADA.key], runs[LLAMA.key]
    with TaskStore(tmp_path, "0.4.13") as store:
        for task_run, value in ((base, 0.75), (own, 0.5), (random, 0.25)):
            score = TaskScore(task_run.id, "arc", "acc", "none", value, 0.1, 20, True, "mean", value - 0.1, value + 0.1)
            store.add(TaskOutcome(task_run, "ok"), [score])
        store.results.differences = (TaskDifference(own.id, base.id, "arc", "acc", "none", -0.25, -0.4, -0.1, 20),)
        store.write()
    lead, *items = answer(run, question).splitlines()
    assert "task accuracy" not in lead
    assert items[-2:] == [
        "arc, tiny-llama: acc 0.75 (0.65 to 0.85)",
        "arc, tiny-llada, K=8: acc 0.50 (0.40 to 0.60), -0.25 (-0.40 to -0.10) from the baseline's",
    ]


def test_other_texts_are_not_measured_whatever_the_prompts():
    run = tiny_run(batches=(1,), blocks=(None,), steps=(8,))
    other = replace(run, cells=(*run.cells, replace(run.cells[0], prompts="file x")))
    sources = [run.cells[0].prompts, "file x"]
    for case, prompts in ((run, sources[0]), (other, " and ".join(sources))):
        answered = answer(case, "other domains")
        assert (
            answered
            == f"[not measured] Not measured: quality by source of the text was not measured (prompts: {prompts})."
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
    text = document.compose([source(cases()[case], 50)])
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
        *("Conclusion", "References", "Appendix A: Reproducibility"),
    ]
    assert "Large Language Diffusion with mAsking" in text
    assert "Language Latent Diffusion" not in text


def test_every_question_is_listed_with_a_state():
    count = sum(len(q) for _, q in THEMES)
    for run in cases().values():
        text = document.compose([source(run, 50)])
        index = sections(text)["### 7.4 Future research"]
        states = re.findall(r"\| Q\d+ \| .* \| (measured|in part|not measured) \|", index)
        assert len(states) == count
        assert len(re.findall(r"(?m)^\*\*Q\d+\*\*", text)) == count
    assert set(states) == {"not measured"}  # the last run holds nothing


def test_random_weights_claim_no_quality():
    text = document.compose([source(cases()["random"])])
    assert "quality was not measured" in text
    assert "Not measured" in sections(text)["### 5.3 Quality by steps"]
    assert "Not measured" in sections(text)["### 5.4 Steps to parity, and the speed there"]
    assert "not the published 8B checkpoints" in text


def test_cited_works_exist_and_are_all_cited():
    text = document.compose([source(cases()["nothing"])])
    body, _, references = text.partition("## 8. References")
    references, _, appendix = references.partition("## Appendix")
    listed = {int(n) for n in re.findall(r"(?m)^(\d+)\. ", references)}
    cited = {int(n) for n in re.findall(r"\\?\[(\d+)\\?\]", body + appendix)}
    assert cited == listed == set(range(1, len(listed) + 1))
    assert len(re.findall(r"arXiv:\d{4}\.\d{5}", references)) >= 20


def test_several_runs_stand_side_by_side_and_are_not_merged():
    first, second = tiny_run(batches=(1,), blocks=(None,)), tiny_run(batches=(8,), blocks=(None,), weights="random")
    text = document.compose([source(first, 50), source(replace(second, name="big"), 50)])
    assert text.count("### Run tiny") >= 3
    assert text.count("### Run big") >= 3
    assert "| type | variable | tiny | big |" in text
    assert "Run tiny: " in text
    assert empty(text) == []


def test_written_with_figures_beside_it_by_relative_path(tmp_path, monkeypatch):
    run = tiny_run(batches=(1,), blocks=(None,), steps=(8, 16))
    drawn = []
    write_one = report_figures.write_one
    monkeypatch.setattr(report_figures, "write_one", lambda name, *rest: drawn.append(name) or write_one(name, *rest))
    folder = tmp_path / "a folder"
    path = document.write(run, analyse(run, 50), folder)
    text = path.read_text()
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert len(pictures) == len(registry.names("figures"))
    assert all((folder / p).is_file() for p in pictures)
    module = registry.load("figures", "latency_vs_steps")
    caption = module.caption(module.points(run, analyse(run, 50)))
    assert escape(caption)[:60] in text
    assert drawn == list(registry.names("figures"))
    # The second time they are there.
    drawn.clear()
    document.write(run, analyse(run, 50), folder)
    assert drawn == []
    both = document.write(run, analyse(run, 50), tmp_path / "both", [(replace(run, folder="other"), analyse(run, 50))])
    assert len(set(re.findall(r"!\[.*?\]\((.*?)\)", both.read_text()))) == 2 * len(pictures)


def test_a_figure_that_fails_is_named_and_the_document_written(tmp_path, monkeypatch):
    def broken(run, study):
        raise ZeroDivisionError("planted <b>")

    for name in registry.names("figures"):
        monkeypatch.setattr(registry.load("figures", name), "points", broken)
    run = cases()["nothing"]
    text = document.write(run, analyse(run, 50), tmp_path).read_text()
    assert "Not drawn: ZeroDivisionError: planted &lt;b&gt;" in text


def test_the_recorded_study(tmp_path):
    run = read_run(STUDY)
    text = document.compose([source(run)])
    assert "30 cells: 22 complete and 8 with timed repetitions but not complete." in text
    assert "NVIDIA H200" in text
    assert "2 warm-up passes" in text
    # From the records: 1366.93 ms over 547.27 ms, and 16 times the length in 1.05 times the memory.
    assert "| 8 | 64 | 1 | 1984 | 64 | 547 ms (542 to 559) | 117 | 2.5x" in text
    assert "16x as long (N=128 to 2048) needs 1.05x the memory" in text
    assert "the larger the batch, the less diffusion gains" in text


def test_a_broken_experiment_file_is_reported_in_one_line(tmp_path):
    shutil.copytree(STUDY, tmp_path / "run")
    (tmp_path / "run/experiment.json").write_text(json.dumps({"protocol": []}))
    run = read_run(tmp_path / "run")
    with pytest.raises(BenchError, match=r"experiment\.json is not the file"):
        document.write(run, analyse(run, 50), tmp_path / "out")


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
    made = PARSER.parse(table(("a", "b"), [(evil, evil), ("x", "y")]))
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
    assert escape(Markdown("*meant*")) == "*meant*"


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
    text = document.compose([source(run, 50)])
    plain = document.compose([source(tiny_run(batches=(1,), blocks=(None,), scored=False), 50)])
    assert "<script" not in text.lower()
    assert "<img" not in text
    kinds = [{t.type for top in PARSER.parse(x) for t in (top, *(top.children or ()))} for x in (text, plain)]
    assert not kinds[0] - kinds[1] - {"text_special"}
    assert "html_block" not in kinds[0] | kinds[1]
    links = [
        t for top in PARSER.parse(text) for t in top.children or () if t.type in ("link_open", "image", "html_inline")
    ]
    assert links == []


def test_generated_texts_are_quoted_as_text(tmp_path):
    run = replace(tiny_run(batches=(1,), blocks=(None,), steps=(8, 16)), folder=str(tmp_path))
    evil = "</p><script>alert(1)</script> | # x ` [a](javascript:1)\n\n# heading"
    lines = [
        {"cell_id": c.id, "prompt_index": 0, "prompt_hash": "h", "output_ids": [1], "text": evil, "forwards": 1}
        for c in run.cells
    ]
    rest = {"useful_tokens": None, "output_bytes": None}
    (tmp_path / "generations.jsonl").write_text("".join(json.dumps({**line, **rest}) + "\n" for line in lines))
    shown = sections(document.compose([source(run, 50)]))["### 5.8 What the text looks like"]
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


def test_the_same_files_give_the_same_document():
    run = tiny_run(batches=(1,), blocks=(None,))
    assert document.compose([source(run)]) == document.compose([source(run)])
