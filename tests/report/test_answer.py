"""The answer: what a person would say first, a row for each workload, one text for each value wherever it stands."""

from __future__ import annotations

import functools
import html
import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from dlmbench.analysis.replication import DISTURBED, LEAST
from dlmbench.analysis.study import analyse
from dlmbench.cli import console
from dlmbench.report import document, page
from dlmbench.report.answer import SHARED, Answer, answer_of
from dlmbench.report.source import Source
from dlmbench.report.tables import text_of
from dlmbench.report.text import escape, rounded
from dlmbench.results import read_run
from dlmbench.types import Cell, Run
from support.report_values import assert_one_text_each, in_document, on_page, values_of
from support.synthetic_run import failed, tiny_run

STUDY = Path(__file__).parents[2] / "docs/study"
REACHED = {None: {4: 2.0, 8: 0.9, 16: 0.85, 32: 0.85, 64: 0.85}}
STATES = re.compile(r"(?i)\b(diffusion|baseline) wins?\b|\bundecided:")
LENGTHS = ((64, 64), (448, 64), (64, 128))


def timed_alone() -> Run:
    return tiny_run(batches=(1, 8), blocks=(None,), lengths=LENGTHS, weights="random", repetitions=6)


def keys(answer: Answer) -> list[str]:
    return [column.key for column in answer.table.columns]


RUNS = {
    **{
        str(records.parent.relative_to(STUDY)): functools.partial(read_run, records.parent)
        for records in sorted(STUDY.rglob("records.jsonl"))
    },
    "both win": lambda: tiny_run(batches=(1, 8), blocks=(None,), nats=REACHED),
    "two settings": lambda: tiny_run(batches=(1, 4), blocks=(None, 16)),
    "few prompts": lambda: tiny_run(batches=(1,), blocks=(None,), prompts=8),
    "one process": lambda: tiny_run(batches=(1, 8), blocks=(None,), processes=1, nats=REACHED),
    "speed alone": timed_alone,
    "no baseline": lambda: tiny_run(roles=("target",), batches=(1,), steps=(4, 8)),
    "nothing": lambda: Run("f", "n", None, (), (), ()),
}


@pytest.fixture(scope="module", params=RUNS)
def source(request) -> Source:
    run = RUNS[request.param]()
    return Source(run, analyse(run, 100))


def test_a_value_has_one_text_on_page_in_document_and_on_the_console(source):
    values = values_of(source.answer)
    shown = dict(pairs := on_page(page.compose(source)))
    assert len(shown) == len(pairs)
    assert {i: shown[i] for i in values} == values
    assert all(i.partition(".")[0] in {c.cell.id for c in source.study.cells} for i in set(shown) - set(values))
    written = document.compose(source)
    assert {i for i in values if values[i]} <= {i for i, _ in in_document(written)}
    assert_one_text_each(page.compose(source), written)
    printed = Console(width=400, record=True, file=io.StringIO())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console, "stdout", lambda: printed)
        console.answer(source.answer, Path("a/report.html"))
    text = " ".join(printed.export_text().split())
    for value in values.values():
        assert " ".join(value.split()) in text


def test_the_summary_on_the_console_has_the_numbers_of_the_report():
    study = analyse(RUNS["two settings"](), 100)
    printed = Console(width=200, record=True, file=io.StringIO())
    for part in console.summary(study):
        printed.print(part)
    text = printed.export_text()
    shown = Source(RUNS["two settings"](), study).cells
    lines = [line for line in text.splitlines() if line.startswith("│")]
    for line, row in zip(lines, shown.rows, strict=True):
        values = {c.key: v for c, v in zip(shown.columns, row, strict=True)}
        assert f" {text_of(values['latency'])} " in line
        assert f"│{values['model']} " in line
        assert f" {rounded(values['likelihood'])} " in line
        assert values["speedup"] is None or f" {rounded(values['speedup'])} " in line
    assert "The same in all rows: P: 64; G: 64;" in text


def test_nothing_but_the_answer_states_who_wins(source):
    """Wherever a report names a winner, it prints the text of a verdict."""
    values = [text for text in values_of(source.answer).values() if len(text) > 12]
    values += [f"{v.outcome}: {v.reason}" for v in source.study.verdicts]  # in the captions of figures
    written = re.sub(r"<!--.*?-->", "", document.compose(source))
    for text in map(escape, sorted(values, key=len, reverse=True)):
        written = written.replace(text, "")
    assert not STATES.findall(written)
    shown = re.sub(r"(?s)<(script|style)\b.*?</\1>", "", page.compose(source))
    for text in sorted(values, key=len, reverse=True):
        shown = shown.replace(html.escape(text, quote=True).replace("&#x27;", "&#39;"), "")
    assert not STATES.findall(re.sub(r"<[^>]*>|below k\*, diffusion wins at equal quality", " ", shown))


def test_every_row_prints_the_verdict_of_its_best_setting(source):
    for row in source.answer.rows:
        own = [
            v
            for v in source.study.verdicts
            if (v.batch_size, v.prompt_tokens, v.new_tokens) == (row.batch_size, row.prompt_tokens, row.new_tokens)
        ]
        assert row.outcome in {v.outcome for v in own}
        assert any(row.faster_up_to.startswith(v.break_even) for v in own)
    pairs = {(c.batch_size, c.lengths) for c in source.study.curves}
    assert len(source.answer.rows) == (len(pairs) if source.study.baselines else 0)


def test_sentences_are_short_and_plain(source):
    answer = source.answer
    texts = list(values_of(answer).values())
    for sentence in (s for text in texts for s in re.split(r"(?<=[.!?])\s", text)):
        assert len(sentence.split()) < 25, sentence
    for word in ("neither", "told", "strays", "nan", "None"):
        assert word not in re.findall(r"\w+", " ".join(texts)), word


def test_the_headline_is_what_a_person_would_say():
    both = answer_of(analyse(RUNS["both win"](), 100))
    assert re.fullmatch(
        r"At near-equal quality tiny-llada is 1\.8\dx faster at batch 1 and 1\.8\dx slower at batch 8\.",
        both.headline,
    )
    assert [r.outcome for r in both.rows] == ["diffusion", "baseline"]
    assert [r.as_good_from for r in both.rows] == ["8", "8"]
    assert re.fullmatch(r"1\.8\d \(1\.8\d to 1\.\d\d\)", both.rows[0].speed_there)
    assert both.rows[0].verdict == "Diffusion wins: as good and faster at K=8"


def test_workloads_that_end_alike_share_a_sentence():
    four = tiny_run(batches=(8, 16), blocks=(None,), lengths=((64, 64), (448, 64)), nats=REACHED)
    slower = r"At near-equal quality tiny-llada is 1\.\d+x to 2\.\d+x slower in all 4 workloads\."
    assert re.fullmatch(slower, answer_of(analyse(four, 100)).headline)
    mixed = tiny_run(batches=(1, 4, 8, 16), blocks=(None,), nats=REACHED)
    assert re.fullmatch(
        r"At near-equal quality tiny-llada is 1\.8\dx faster at batch 1 and 1\.\d+x to 2\.\d+x slower at "
        r"batch 8 and 16\. "
        r"Which model wins is undecided at batch 4\.",
        answer_of(analyse(mixed, 100)).headline,
    )


def test_what_was_not_timed_is_not_called_without_a_difference():
    """At batch 8 one setting ran out of memory; the other was timed, and leads although its k* is not known."""
    run = tiny_run(batches=(1, 8), blocks=(None, 16), steps=(16,), weights="random")

    def without(lost: Callable[[Cell], bool]) -> str:
        left = [failed(r.cell) if lost(r.cell) else r for r in run.results]
        return answer_of(analyse(replace(run, results=tuple(left)), 50)).headline

    assert without(lambda c: c.batch_size == 8 and c.steps is not None and c.knob("block_length") is None).endswith(
        "slower at every step count measured at batch 1 and 8."
    )
    assert without(lambda c: c.batch_size == 8 and c.steps is not None).endswith(
        "slower at every step count measured at batch 1 and not timed against the baseline at batch 8."
    )


def test_many_step_counts_are_a_range_and_those_of_many_other_settings_are_counted():
    texts = {row.workload: row.sure for row in answer_of(analyse(read_run(STUDY / "tasks"), 20)).rows}
    assert texts["1, 680+256"] == "Shown faster at K=4 to K=32, shown slower at K=64"
    assert texts["1, 894+256"] == (
        "Shown faster at K=16 to K=128 and 8 of 9 in other settings, shown slower at K=256 and 1 of 9 in other settings"
    )
    two = "K=16 (block 32, dual cache) and K=32 (block 32, dual cache)"
    assert texts["32, 894+256"] == f"Shown faster at K=2, shown slower at K=4, {two}"


def test_a_run_of_random_weights_speaks_of_speed_alone_and_hides_no_workload():
    answer = answer_of(analyse(read_run(STUDY / "h200-native"), 100))
    assert answer.headline == (
        "Speed only: random weights. In the best workload llada breaks even after about 54 of 64 steps "
        "at batch 1 with 64+64 tokens. In the worst llada breaks even after 2 of 64 steps at batch 8 "
        "with 960+64 tokens."
    )
    assert answer.caveats == (
        "Measured by commit cc648f7fd43b with uncommitted changes: nobody can check out what was measured.",
        "Random weights (llada, llama): times and memory are real, quality is not measured.",
    )
    assert len(answer.rows) == 8
    assert "as_good_from" not in keys(answer)
    assert "Who wins at equal quality: Undecided: random weights, quality not measured." in answer.notes
    # "about" is what lies beyond the measured steps; the others name the measured K next to them.
    texts = {row.workload: row for row in answer.rows}
    assert texts["1, 64+64"].faster_up_to == "about 54"
    assert texts["8, 960+64"].faster_up_to == "2 (between K=2 and 4)"
    # How sure each row is stands beside it, with the cause, which is not the noise floor.
    assert texts["1, 64+64"].sure == "Shown faster at each K timed"
    assert texts["8, 960+64"].sure == "Undecided at each K timed (too few repetitions)"
    assert texts["1, 1984+64"].sure == "Shown faster at K=4, undecided at K=8 (too few repetitions)"
    assert answer.notes[-2:] == (
        f"Too few repetitions for a verdict: 10 of 19 speeds. A verdict needs {LEAST}.",
        "Fewer than 3 processes: 9 of 19 speeds. For them, a difference under 10% decides nothing.",
    )
    # The most steps of a workload are those of a cached setting, which is not the best one.
    speeds = "10.9x at K=8 (block 256, no cache), 0.678x at K=256 (block 32, prefix cache)"
    assert texts["1, 256+256"].speeds == speeds


def test_the_best_setting_leads_and_the_others_are_counted():
    nats = {None: {4: 2.0, 8: 0.9, 16: 0.85, 32: 0.85, 64: 0.85}, 16: {4: 3.0, 8: 2.0, 16: 1.9, 32: 1.8, 64: 1.7}}
    (row,) = answer_of(analyse(tiny_run(batches=(1,), nats=nats), 100)).rows
    assert row.outcome == "diffusion"
    assert row.verdict.endswith("Of 2 settings: diffusion wins in 1, the baseline wins in 1")


def test_what_all_rows_share_is_a_note_and_not_a_column():
    answer = answer_of(analyse(timed_alone(), 50))
    assert not set(SHARED) & set(keys(answer))
    assert keys(answer)[0] == "workload"
    single = answer_of(analyse(tiny_run(batches=(1,), blocks=(None,), weights="random"), 50))
    assert set(SHARED) <= set(keys(single))
    scored = answer_of(analyse(RUNS["both win"](), 50))
    assert "sure" not in keys(scored)  # the verdicts say it


def test_times_of_one_process_name_the_noise_floor():
    answer = answer_of(analyse(RUNS["one process"](), 100))
    assert answer.notes[-1] == (
        "Fewer than 3 processes: all 10 speeds. For them, a difference under 10% decides nothing."
    )
    assert not any("decides nothing" in note for note in answer_of(analyse(RUNS["both win"](), 100)).notes)


def test_too_few_repetitions_are_the_cause_that_is_named():
    """Nothing rests on them, so that no noise floor matters."""
    answer = answer_of(analyse(tiny_run(batches=(1,), blocks=(None,), processes=1, repetitions=3), 100))
    assert not any("decides nothing" in note for note in answer.notes)
    assert any(note.startswith("Too few repetitions for a verdict: all 5 speeds") for note in answer.notes)


def test_a_busy_machine_is_the_cause_that_is_named():
    run = timed_alone()
    busy = [replace(r, samples=tuple(replace(s, host_busy=0.9) for s in r.samples)) for r in run.results]
    answer = answer_of(analyse(replace(run, results=tuple(busy)), 100))
    assert f"All workloads: Undecided at each K timed ({DISTURBED})." in answer.notes
    assert f"Undecided because {DISTURBED}: all 30 speeds." in answer.notes
    assert not any("Too few" in note for note in answer.notes)


def test_workloads_of_other_lengths_are_named_whole():
    answer = answer_of(analyse(tiny_run(batches=(1, 4), blocks=(None,), lengths=((64, 64),)), 50))
    assert "batch 1 and 4" in answer.headline
    lengths = ((64, 64), (448, 64))
    answer = answer_of(analyse(tiny_run(batches=(1,), blocks=(None,), lengths=lengths, prompts=8), 50))
    assert "at batch 1 with 64+64 and 448+64 tokens" in answer.headline


def test_without_a_comparison_the_headline_says_what_is_missing():
    assert answer_of(analyse(RUNS["no baseline"](), 50)).headline == (
        "tiny-llada was measured alone: a comparison needs an autoregressive baseline."
    )
    assert answer_of(analyse(RUNS["nothing"](), 50)).headline.startswith("There is nothing to compare yet")
    lone = tiny_run(batches=(1,), blocks=(None,), steps=(16,))
    (row,) = answer_of(analyse(replace(lone, text_scores=()), 50)).rows
    assert row.faster_up_to == "not known"
    assert row.speeds.endswith("x at K=16")


def test_engines_have_rows_of_their_own():
    """A slow engine's baseline must not lend its time to diffusion on the other."""
    run = tiny_run(batches=(1,), blocks=(None,), steps=(4, 8))

    def on_hf(result):
        cell = replace(result.cell, engine="hf")
        samples = tuple(replace(s, cell_id=cell.id, latency_s=5 * s.latency_s) for s in result.samples)
        return replace(result, cell=cell, samples=samples, memory=None, traced=None)

    results = (*run.results, *map(on_hf, run.results))
    both = replace(run, cells=tuple(r.cell for r in results), results=results)
    rows = answer_of(analyse(both, 100)).rows
    assert [r.workload for r in rows] == ["1, 64+64, hf", "1, 64+64, native"]
    assert len({r.id for r in rows}) == 2
