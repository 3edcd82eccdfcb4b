"""Tasks: the adapter's numbers against direct computations with the same checkpoints, and the records of a sweep."""

from __future__ import annotations

import itertools
import json
import math
import random
import shutil
import sys
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest

from dlmbench import models
from dlmbench.errors import BenchError
from dlmbench.tasks import records
from dlmbench.tasks.paired import differences, with_interval
from dlmbench.tasks.records import TaskOutcome, TaskRun, TaskSample, TaskScore, TaskStore
from dlmbench.tiny import checkpoint_folder, next_word, story_of
from dlmbench.tiny.vocabulary import END_OF_TEXT_ID, MASK_TOKEN_ID, START_OF_TEXT_ID, encode
from dlmbench.types import ModelSpec

torch = pytest.importorskip("torch")
pytest.importorskip("lm_eval")
ROOT = Path(__file__).parents[2]
STORIES = [story_of("heldout", 700_000 + i, 64) for i in range(6)]


def asked(*arguments):
    return SimpleNamespace(args=arguments)


@contextmanager
def quiet_bar(what, total):
    yield lambda count: None


def adapter(source: str, **given):
    from dlmbench.tasks.adapter import DlmbenchLM

    lm = DlmbenchLM(pretrained=source, **given)
    lm.bar = quiet_bar
    return lm


@pytest.fixture(scope="module")
def ar():
    return adapter("embedded:ar", batch_size=4)


@pytest.fixture(scope="module")
def llada():
    return adapter("embedded:llada", batch_size=4, likelihood="sampler", steps=4)


@cache
def bare(source: str):
    """The checkpoint's language model, loaded apart from the adapter's."""
    spec = ModelSpec("bare", "", source, "target")
    return models.load(spec, engine="hf", precision="float32", attention="auto", device="cpu").language_model


def logits(lm, ids: list[int]) -> torch.Tensor:
    """Log-probabilities at every position, by the bare model."""
    model = bare(lm.args.model.source)
    with torch.inference_mode():
        found = model.logits(model.forward(torch.tensor([ids])), 0, len(ids))[0].double()
        if not model.architecture.is_causal:
            found[:, MASK_TOKEN_ID] = -math.inf
        return found.log_softmax(-1)


def chain_rule(lm, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    table = logits(lm, context + continuation)
    rows = table[len(context) - 1 : -1]
    total = sum(float(rows[i, token]) for i, token in enumerate(continuation))
    return total, rows.argmax(-1).tolist() == continuation


# ---------------------------------------------------------------- autoregressive


def test_a_causal_models_likelihood_is_the_chain_rule_and_its_greedy_flag_the_argmax(ar):
    pairs = [(words[:40], words[40 : 40 + n]) for words, n in zip(STORIES, (1, 2, 3, 5, 5, 8), strict=True)]
    certain = [(w[:i], w[i : i + 2]) for w in STORIES for i in range(30, 60) if len(next_word(w[:i])) == 1][:4]
    answers = ar.loglikelihood([asked(" ".join(c), " " + " ".join(t)) for c, t in pairs + certain])
    expected = [chain_rule(ar, encode(c), encode(t)) for c, t in pairs + certain]
    assert [a for a, _ in answers] == pytest.approx([e for e, _ in expected], abs=1e-3)
    assert [g for _, g in answers] == [g for _, g in expected]
    assert {g for _, g in answers} == {True, False}, "both answers must occur, or the flag was not tested"


def test_rolling_predicts_each_token_once_and_windows_do_not_overlap(ar):
    ids = encode(STORIES[0])
    whole, _ = chain_rule(ar, [START_OF_TEXT_ID], ids)
    assert ar.loglikelihood_rolling([asked(" ".join(STORIES[0]))]) == pytest.approx([whole], abs=1e-3)
    short = adapter("embedded:ar", max_length=21, device="cuda:0")  # what lm-eval asks for by itself
    # 20 tokens a window behind one of context (the start of the text, then the last of the window before); the last
    # window, of 4 tokens, has the longest context that fits.
    start = [START_OF_TEXT_ID, *ids]
    parts = [chain_rule(ar, start[i : i + 1], ids[i : i + 20])[0] for i in (0, 20, 40)]
    parts.append(chain_rule(ar, ids[43:60], ids[60:])[0])
    assert short.loglikelihood_rolling([asked(" ".join(STORIES[0]))]) == pytest.approx([sum(parts)], abs=1e-3)


def test_a_generation_is_the_greedy_text_cut_at_the_first_stop(ar):
    context = " ".join(STORIES[1][:40])
    ids = encode(STORIES[1][:40])
    for _ in range(12):
        ids.append(int(logits(ar, ids)[-1].argmax()))
    text = ar.checkpoint_tokenizer.decode(ids[40:])
    assert "." in text
    uncut, cut = ar.generate_until(
        [asked(context, {"until": [], "max_gen_toks": 12}), asked(context, {"until": ["."], "max_gen_toks": 12})]
    )
    assert uncut == text
    assert cut == text.split(".")[0]


def test_the_end_of_text_and_special_stop_strings_cut_too(ar):
    words = encode(["anna", "lived"])
    assert ar._until((*words, END_OF_TEXT_ID, *words), []) == "anna lived"
    assert ar._until((*words, START_OF_TEXT_ID, *words), []) == "anna lived anna lived"
    assert ar._until((*words, START_OF_TEXT_ID, *words), ["<|startoftext|>"]) == "anna lived"


# ---------------------------------------------------------------- masked diffusion


def denoised(lm, context: list[int], continuation: list[int], steps: int) -> float:
    """The sampler's likelihood, step by step: reveal the surest positions, pay for the truth there."""
    canvas, length, total = context + [MASK_TOKEN_ID] * len(continuation), len(continuation), 0.0
    share, extra = divmod(length, steps)
    for step in range(steps):
        model = bare(lm.args.model.source)
        with torch.inference_mode():
            raw = model.logits(model.forward(torch.tensor([canvas])), len(context), len(canvas))[0]
        allowed = raw.clone()
        allowed[:, MASK_TOKEN_ID] = -math.inf
        sure = raw.softmax(-1).gather(-1, allowed.argmax(-1)[:, None])[:, 0].tolist()
        still = [i for i in range(length) if canvas[len(context) + i] == MASK_TOKEN_ID]
        for i in sorted(still, key=lambda i: -sure[i])[: share + (step < extra)]:
            total += float(allowed[i].double().log_softmax(-1)[continuation[i]])
            canvas[len(context) + i] = continuation[i]
    return total


def test_a_diffusion_models_likelihood_is_that_of_its_sampler_at_k(llada):
    pairs = [(words[:30], words[30 : 30 + n]) for words, n in zip(STORIES, (2, 4, 6, 6, 9, 10), strict=True)]
    answers = llada.loglikelihood([asked(" ".join(c), " " + " ".join(t)) for c, t in pairs])
    expected = [denoised(llada, encode(c), encode(t), min(4, len(t))) for c, t in pairs]
    assert [a for a, _ in answers] == pytest.approx(expected, abs=2e-3)


def test_more_steps_than_tokens_are_one_a_token(llada):
    request = [asked(" ".join(STORIES[0][:30]), " " + " ".join(STORIES[0][30:33]))]
    many, three = other(llada, steps=64), other(llada, steps=3)
    assert many.loglikelihood(request) == three.loglikelihood(request)
    assert many.loglikelihood(request) != other(llada, steps=1).loglikelihood(request)


def other(lm, **changes):
    """The same loaded model in another setting."""
    from dlmbench.tasks.adapter import DlmbenchLM, read_model_args

    fields = {"pretrained": lm.args.model.source, "likelihood": "sampler"} | changes
    args = replace(read_model_args(fields, lm.args.rows), model=lm.args.model)
    return DlmbenchLM.from_worker(args, models.find(args.model), lm.worker, lm.bar)


def test_the_elbo_agrees_with_the_sum_over_all_masks(llada):
    context, truth = encode(STORIES[2][:30]), encode(STORIES[2][30:34])
    exact = 0.0
    for size in range(1, 5):
        chosen = list(itertools.combinations(range(4), size))
        for masked in chosen:
            ids = context + [MASK_TOKEN_ID if i in masked else token for i, token in enumerate(truth)]
            rows = logits(llada, ids)[len(context) :]
            exact += sum(float(rows[i, truth[i]]) for i in masked) * (4 / size) / len(chosen) / 4
    request = [asked(" ".join(STORIES[2][:30]), " " + " ".join(STORIES[2][30:34]))]
    seeds = range(4)
    found = [other(llada, likelihood="elbo", draws=400, seed=seed).loglikelihood(request)[0][0] for seed in seeds]
    stderr = np.std(found, ddof=1) / 2
    assert 0 < stderr < 0.1
    # Three degrees of freedom: 5.8 standard errors are passed once in a hundred times; the seeds are fixed.
    assert abs(np.mean(found) - exact) < 5.8 * stderr, (found, exact)
    # One token has one mask: no draw is needed, and the value is exact.
    single = [asked(" ".join(STORIES[2][:30]), " " + STORIES[2][30])]
    ids = [*context, MASK_TOKEN_ID]
    value = other(llada, likelihood="elbo").loglikelihood(single)[0][0]
    assert value == pytest.approx(float(logits(llada, ids)[-1, truth[0]]), abs=1e-3)


def test_the_greedy_flag_of_a_diffusion_model_is_its_own_generation(llada):
    context = " ".join(STORIES[3][:40])
    text = llada.generate_until([asked(context, {"until": [], "max_gen_toks": 6})])[0]
    wrong = " ".join(STORIES[4][40:46])
    answers = llada.loglikelihood([asked(context, " " + text), asked(context, " " + wrong)])
    assert [flag for _, flag in answers] == [True, False]


def test_a_diffusion_generation_is_that_of_the_generate_command(llada, tmp_path):
    from dlmbench.bench.generate import GenerateRequest, generate

    context = " ".join(STORIES[3][:40])
    path = tmp_path / "prompts.txt"
    path.write_text(context + "\n")
    request = GenerateRequest(
        "embedded:llada", path, False, None, {"steps": 4}, 12, 0, "float32", "auto", "hf", 1, False, False
    )
    (expected,) = generate(request)
    found = llada.generate_until([asked(context, {"until": ["."], "max_gen_toks": 12})])
    assert found == [expected.text.split(".")[0]]


# ---------------------------------------------------------------- what a request may be


def test_the_chat_template_is_the_checkpoints_and_start_tokens_are_added_once(tmp_path):
    folder = shutil.copytree(checkpoint_folder("ar"), tmp_path / "chat")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    turns = "{{ bos_token }}{% for m in messages %} {{ m['content'] }} .{% endfor %}"
    config["chat_template"] = turns + "{% if add_generation_prompt %} then{% endif %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    beginning = {"SpecialToken": {"id": "<|startoftext|>", "type_id": 0}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [beginning, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "<|startoftext|>": {"id": "<|startoftext|>", "ids": [START_OF_TEXT_ID], "tokens": ["<|startoftext|>"]}
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    lm = adapter(str(folder))
    text = lm.apply_chat_template([{"role": "user", "content": "anna lived"}])
    assert text == "<|startoftext|> anna lived . then"
    assert lm.tok_encode(text) == [START_OF_TEXT_ID, *encode(["anna", "lived", ".", "then"])]
    assert lm.tok_encode("anna lived") == [START_OF_TEXT_ID, *encode(["anna", "lived"])]
    assert lm.chat_template(True) == config["chat_template"]
    with pytest.raises(BenchError, match="no chat template"):
        adapter("embedded:ar").apply_chat_template([{"role": "user", "content": "anna"}])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "names no model"),
        ({"pretrained": "embedded:llada", "stepz": 4}, "stepz.*steps"),
        ({"pretrained": "embedded:llada", "steps": "four"}, "steps.*four"),
        ({"pretrained": "embedded:llada", "steps": 0}, "steps"),
        *(
            ({"pretrained": "embedded:ar", "seed": n}, "seed = .*at most 9007199254740992")
            for n in (2**53 + 1, "9" * 5000)
        ),
        ({"pretrained": "embedded:llada", "likelihood": "elb"}, "likelihood.*elbo"),
        ({"pretrained": "embedded:llada", "sampler": "autoregressive"}, "masked_diffusion"),
        ({"pretrained": "embedded:ar", "steps": 4}, "no knob 'steps'"),
        ({"pretrained": "embedded:llada", "threshold": 0.5}, "threshold"),
        ({"pretrained": "embedded:llada", "trust_remote_code": True}, "remote code is not supported"),
        ({"pretrained": "embedded:llada", "batch_size": "auto"}, "batch_size"),
        ({"pretrained": "/nowhere/at/all"}, "/nowhere/at/all"),
    ],
)
def test_wrong_arguments_are_reported_before_anything_is_loaded(given, says):
    from dlmbench.tasks.adapter import DlmbenchLM

    with pytest.raises(BenchError, match=f"(?s){says}"):
        DlmbenchLM(**given)


def test_every_attention_kernel_of_the_engines_can_be_named():
    from dlmbench.experiment.schema import GridEntry
    from dlmbench.models.attention import KERNELS
    from dlmbench.tasks.adapter import read_model_args

    for name in ("auto", *KERNELS):
        assert read_model_args({"pretrained": "embedded:ar", "attention": name}).attention == name
    with pytest.raises(BenchError, match=r"unknown attention 'flsh'.*cudnn"):
        read_model_args({"pretrained": "embedded:ar", "attention": "flsh"})
    # Experiment files are read below the engines, so the names stand there once more.
    assert set(get_args(GridEntry.model_fields["attention"].annotation)) == {"auto", *KERNELS}


def test_a_request_that_cannot_be_answered_is_an_error_with_the_reason(llada):
    context = " ".join(STORIES[0][:30])
    blocks = other(llada, steps=4, block_length=4)
    with pytest.raises(BenchError, match=r"text of 6 tokens.*block_length 4"):
        blocks.loglikelihood([asked(context, " " + " ".join(STORIES[0][30:36]))])
    # A text within one block is one block.
    assert blocks.loglikelihood([asked(context, " " + " ".join(STORIES[0][30:33]))])[0][0] < 0
    with pytest.raises(BenchError, match="canvas of 10 tokens"):
        blocks.generate_until([asked(context, {"until": [], "max_gen_toks": 10})])
    with pytest.raises(BenchError, match="do not fit into 512"):
        llada.generate_until([asked(context, {"until": [], "max_gen_toks": 600})])
    drawn = {"until": [], "max_gen_toks": 4, "do_sample": True, "temperature": 1.0, "top_p": 0.9}
    with pytest.raises(BenchError, match="top_p"):
        llada.generate_until([asked(context, drawn)])


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_beams", 4), ("repetition_penalty", 1.2), ("no_repeat_ngram_size", 3), ("min_new_tokens", 2), ("foo", "bar")],
)
def test_an_argument_that_changes_greedy_text_is_refused(llada, name, value):
    with pytest.raises(BenchError, match=f"requests {name} = {value}, which no sampler supports.*--gen_kwargs {name}="):
        llada.generate_until([asked("a", {"until": [], "max_gen_toks": 4, "do_sample": False, name: value})])


def test_arguments_without_effect_on_greedy_text_are_ignored(llada):
    context = " ".join(STORIES[0][:20])
    plain = {"until": [], "max_gen_toks": 4}
    neutral = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "top_k": None}
    drawing = {"top_p": 0.9, "top_k": 50}
    expected = llada.generate_until([asked(context, plain)])
    assert llada.generate_until([asked(context, plain | neutral)]) == expected
    assert llada.generate_until([asked(context, plain | drawing)]) == expected


def test_a_long_context_is_cut_on_the_left_with_a_warning(ar, caplog):
    short = adapter("embedded:ar", max_length=24)
    answer = short.loglikelihood([asked(" ".join(STORIES[0][:40]), " " + " ".join(STORIES[0][40:44]))])
    assert answer[0][0] == pytest.approx(
        chain_rule(ar, encode(STORIES[0][20:40]), encode(STORIES[0][40:44]))[0], abs=1e-3
    )
    assert "1 of 1 contexts were truncated on the left" in caplog.text


def test_without_lm_eval_the_error_gives_the_command_to_install_it(monkeypatch, capsys):
    from dlmbench.cli import main

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for arguments in (["tasks", "--tasks", "tiny_choice"], ["lm-eval", "ls"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert "pip install" in capsys.readouterr().err


def test_the_committed_documents_are_what_the_script_makes(tmp_path):
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import make_tiny_tasks as script
    finally:
        sys.path.pop(0)
    for make in (script.choice, script.rolling, script.generate):
        lines = (ROOT / f"config/tasks/tiny_{make.__name__}.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines[:5]] == list(itertools.islice(make(40), 5))


# ---------------------------------------------------------------- records and paired differences


def task_run(key: str, steps: int | None = None) -> TaskRun:
    role = "baseline" if steps is None else "target"
    spec = ModelSpec(key, "llada", "somewhere", role)
    knobs = () if steps is None else (("steps", steps),)
    return TaskRun(
        task="t", definition="abc", model=spec, sampler="s", knobs=knobs, precision="float32", likelihood="sampler"
    )


def samples_of(run: TaskRun, values) -> list[TaskSample]:
    return [TaskSample(run.id, "t", "none", i, f"h{i}", "", [], [], {"m": v}) for i, v in enumerate(values)]


def score_of(run: TaskRun, value: float, aggregation: str | None) -> TaskScore:
    return TaskScore(run.id, "t", "m", "none", value, None, 5, True, aggregation)


def test_the_paired_difference_is_that_of_the_documents_and_its_interval_that_of_the_mean():
    rng = np.random.default_rng(3)
    base = rng.integers(0, 2, 400).astype(float)
    mine = np.where(rng.random(400) < 0.9, base, 1 - base)  # nearly the same answers: pairing must pay
    one, two = task_run("ar"), task_run("llada", 4)
    scores = [score_of(one, base.mean(), "mean"), score_of(two, mine.mean(), "mean")]
    documents = {one.id: samples_of(one, base), two.id: samples_of(two, mine)}
    (found,) = differences(scores, {two.id: one.id}, documents)
    assert found.value == pytest.approx(mine.mean() - base.mean())
    half = 1.96 * np.std(mine - base, ddof=1) / 20
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)
    assert found.n == 400
    interval = with_interval(scores[1], documents[two.id])
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * mine.std(ddof=1) / 20, rel=0.1)


def test_four_of_four_right_is_not_certainty():
    run = task_run("ar")
    found = with_interval(score_of(run, 1.0, "mean"), samples_of(run, [1.0] * 4))
    z = 1.959964
    assert (found.low, found.high) == (pytest.approx(4 / (4 + z**2)), 1.0)  # Wilson
    other = task_run("llada", 4)
    documents = {run.id: samples_of(run, [1.0] * 4), other.id: samples_of(other, [1.0] * 4)}
    (change,) = differences([score_of(run, 1.0, "mean"), score_of(other, 1.0, "mean")], {other.id: run.id}, documents)
    assert (change.low, change.high) == pytest.approx((-(z**2) / (4 + z**2), z**2 / (4 + z**2)))


def test_ratios_are_resampled_as_lm_eval_aggregates_them():
    rng = random.Random(5)
    values = [(-rng.uniform(20, 40), float(rng.randint(80, 120))) for _ in range(50)]
    ratio = sum(v for v, _ in values) / sum(w for _, w in values)
    run = task_run("ar")
    for name, value in (("weighted_perplexity", math.exp(-ratio)), ("bits_per_byte", -ratio / math.log(2))):
        found = with_interval(score_of(run, value, name), samples_of(run, values))
        assert found.low < value < found.high
    # A value that the documents do not give back, or a rule that is not known, gets no interval.
    assert with_interval(score_of(run, 9.9, "bits_per_byte"), samples_of(run, values)).low is None
    assert with_interval(score_of(run, value, "f1"), samples_of(run, values)).low is None


def test_only_the_same_documents_are_paired():
    one, two = task_run("ar"), task_run("llada", 4)
    documents = {one.id: samples_of(one, [1.0, 0.0, 1.0]), two.id: samples_of(two, [1.0, 1.0, 1.0])}
    documents[two.id][2] = replace(documents[two.id][2], doc_hash="another")
    scores = [score_of(one, 2 / 3, "mean"), score_of(two, 1.0, "mean")]
    (found,) = differences(scores, {two.id: one.id}, documents)
    assert (found.n, found.value) == (2, 0.5)


EXPERIMENT = """
name: small
models:
  {key}: {{family: llama, source: {source}}}
grid:
  lengths: {{prompt_tokens: 24, new_tokens: 16}}
  precision: float32
  samplers: {{autoregressive: {{}}}}
prompts: {{source: tiny, count: 6}}
"""


def planned_runs(folder: Path, key: str) -> list[TaskRun]:
    """The runs of one task for the checkpoint in `folder`, as `sweep.run` plans them."""
    from dlmbench.experiment import load as configuration
    from dlmbench.tasks import sweep

    path = folder.parent / "small.yaml"
    path.write_text(EXPERIMENT.format(key=key, source=folder))
    experiment = configuration.load(path)
    task = sweep._Task("t", None, "abc", frozenset({"generate_until"}), False)
    return sweep._plan(experiment, sweep.TaskListArgs(("t",)), {"t": task}, sweep._find_models(experiment))


def test_a_moved_or_renamed_model_is_not_run_again_and_replaced_weights_are_refused(tmp_path):
    results, first = tmp_path / "results", shutil.copytree(checkpoint_folder("ar"), tmp_path / "first")
    (run,) = planned_runs(first, "ar")
    with TaskStore(results, "0") as store:
        assert store.plan([run]) == [run]
        store.add(TaskOutcome(run, "ok"), [score_of(run, 0.5, "mean")], samples_of(run, [1.0, 0.0]))
    moved = first.rename(tmp_path / "moved")
    (again,) = planned_runs(moved, "renamed")
    assert again.model != run.model
    with TaskStore(results, "0") as store:
        assert store.plan([again]) == []
        store.write()
    assert [outcome.run for outcome in records.read(results).outcomes.values()] == [again]
    weights = moved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    (other,) = planned_runs(moved, "renamed")
    assert other.id != again.id
    with TaskStore(results, "0") as store, pytest.raises(BenchError, match=r"a different checkpoint.*content"):
        store.plan([other])
    # At another place and under another key it is simply another model.
    (third,) = planned_runs(moved.rename(tmp_path / "third"), "third")
    with TaskStore(results, "0") as store:
        assert store.plan([again, third]) == [third]


def test_records_are_read_back_and_a_failed_run_is_tried_again(tmp_path):
    one, two = task_run("ar"), task_run("llada", 4)
    with TaskStore(tmp_path, "0") as store:
        store.add(TaskOutcome(one, "ok"), [score_of(one, 0.5, "mean")], samples_of(one, [1.0, 0.0]))
        store.add(TaskOutcome(two, "error", "no"))
        with pytest.raises(BenchError, match="another run"):
            TaskStore(tmp_path, "0")
    with TaskStore(tmp_path, "0") as store:
        assert (store.is_done(one), store.is_done(two)) == (True, False)
        # A killed run left lines of this one behind: the later line of a document counts.
        store.add(TaskOutcome(two, "ok"), [score_of(two, math.inf, "mean")], samples_of(two, [0.0, 0.0]))
        store.add(TaskOutcome(two, "ok"), [score_of(two, math.inf, "mean")], samples_of(two, [1.0, (-3.0, 2.0)]))
        assert [s.values["m"] for s in records.read_samples(tmp_path, [two.id])[two.id]] == [1.0, (-3.0, 2.0)]
    found = records.read(tmp_path)
    assert [e.run for e in found.outcomes.values()] == [one, two]
    assert [s.value for s in found.scores] == [0.5, None]
    (tmp_path / records.TASKS).write_text("{")
    with pytest.raises(BenchError, match="damaged"):
        TaskStore(tmp_path, "0")
