"""Prompts: exact lengths, the same passages and the same bytes for two tokenizers, and every kind of file."""

import itertools
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlmbench import prompts
from dlmbench.errors import BenchError
from dlmbench.tiny.story import story_of
from dlmbench.tiny.vocabulary import encode
from dlmbench.types import PromptSettings

SENTENCES = [
    "The lobster lives on the sea bed , where it walks slowly between the rocks .",
    "In the evening the fishermen of the island come home with full nets and empty stomachs .",
    "Les élèves ont mangé des crêpes à Noël ; 冬の海は静かだ 🦞 and the boats stay in the harbour .",
    "A mass of 6 kilograms is rare , but lobsters of 60 centimetres have been caught near the coast .",
]


def byte_level(size, opening=None):
    """A byte-level BPE trained on the sentences; `opening` is put before every text, as LLaMA-3's start token is."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [opening] if opening else []
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if opening:
        number = tokenizer.token_to_id(opening)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{opening} $A", special_tokens=[(opening, number)]
        )
    return prompts.Tokenizer(
        encode=lambda text: tokenizer.encode(text).ids,
        decode=lambda ids: tokenizer.decode(list(ids), skip_special_tokens=True),
    )


COARSE = byte_level(420, opening="<s>")
FINE = byte_level(270)


def article_text(articles=4, paragraphs=6):
    lines = []
    for a in range(articles):
        lines += [" ", f" = Article {a} = ", " "]
        for p in range(paragraphs):
            if p == 3:
                lines += [" ", " = = Section = = ", " "]
            lines.append(" " + " ".join(f"No. {a}-{p} : {s}" for s in SENTENCES) + " ")
    return "\n".join(lines) + "\n"


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "valid.txt"
    path.write_text(article_text(), encoding="utf-8")
    return path


# ---------------------------------------------------------------- lengths and choice


def test_exact_lengths_for_both_models_and_the_same_passages(corpus):
    asked = PromptSettings("wikitext-103", 6, str(corpus))
    coarse = prompts.take(asked, COARSE, 40, 24, also=[FINE])
    fine = prompts.take(asked, FINE, 40, 24, also=[COARSE])
    assert coarse.prompt_hash == fine.prompt_hash
    for found in (coarse, fine):
        assert [p.index for p in found.prompts] == list(range(6))
        assert {len(p.ids) for p in found.prompts} == {40}
        assert {len(p.reference_ids) for p in found.prompts} == {24}
    starts = [p.text[:20] for p in coarse.prompts]
    assert starts == [p.text[:20] for p in fine.prompts]
    assert all(not s.startswith("=") for s in starts)
    for prompt in coarse.prompts:
        whole = COARSE.decode(prompt.ids + prompt.reference_ids)
        assert whole.startswith(prompt.text.rstrip("\ufffd"))
        assert prompt.reference_text in whole


def test_the_choice_is_deterministic_nested_and_the_seed_changes_it(corpus):
    def texts(count, seed=0):
        return [
            p.text for p in prompts.take(PromptSettings("wikitext-103", count, str(corpus), seed), FINE, 30, 10).prompts
        ]

    assert texts(8)[:3] == texts(3)
    assert texts(8) == texts(8)
    assert any(texts(8) != texts(8, seed) for seed in range(1, 5))


def test_windows_of_an_article_do_not_overlap(corpus):
    asked = PromptSettings("wikitext-103", None, str(corpus))
    # each window needs more than one of an article's six paragraphs
    found = [p.text for p in prompts.choose(asked, [FINE], 300, 100)]
    assert all("\n" in text for text in found)
    for article in prompts.load_texts(asked):
        inside = sorted((article.text.index(t), article.text.index(t) + len(t)) for t in found if t in article.text)
        assert len(inside) == 3
        assert all(stop <= start for (_, stop), (start, _) in itertools.pairwise(inside))
    first = [text.partition(":")[0] for text in found[:4]]
    assert sorted(first) == [f"No. {a}-0 " for a in range(4)]  # one of each article before a second of any


def test_a_prompt_too_short_for_one_of_the_models_is_used_for_none(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("\n".join([SENTENCES[0], SENTENCES[0] * 3]))
    lengths = [len(t.encode(SENTENCES[0])) for t in (FINE, COARSE)]
    assert lengths[0] > 30 > lengths[1]
    for first, second in ((FINE, COARSE), (COARSE, FINE)):
        found = prompts.take(file_settings(path), first, 20, 10, also=[second]).prompts
        assert len(found) == 1


def test_too_short_a_corpus_says_how_many_there_are(corpus):
    with pytest.raises(BenchError, match=r"found 24 prompts of 500 requested with 40 prompt and 24 reference tokens"):
        prompts.take(PromptSettings("wikitext-103", 500, str(corpus)), FINE, 40, 24)
    with pytest.raises(BenchError, match=r"found 0 prompts of 1 requested"):
        prompts.take(PromptSettings("wikitext-103", 1, str(corpus)), FINE, 40_000, 24)


def test_articles_are_put_together_again(corpus):
    found = prompts.load_texts(PromptSettings("wikitext-103", 1, str(corpus)))
    assert len(found) == 4
    assert all(p.text.startswith(f"= Article {i} =\n") for i, p in enumerate(found))
    assert all("= = Section = =" in p.text for p in found)


@pytest.mark.parametrize("name", ["validation-00000-of-00001.parquet", "wikitext-validation.arrow"])
def test_a_folder_with_a_table_is_read_like_the_text(corpus, tmp_path, name):
    import pandas as pd

    lines = pd.DataFrame({"text": [f"{line}\n" for line in article_text().split("\n")]})
    folder = tmp_path / "set" / "wikitext-103-v1"
    folder.mkdir(parents=True)
    if name.endswith(".parquet"):
        lines.to_parquet(folder / name)
    else:
        from datasets import Dataset

        Dataset.from_pandas(lines).save_to_disk(str(tmp_path / "saved"))
        next((tmp_path / "saved").glob("*.arrow")).rename(folder / name)
    found = prompts.load_texts(PromptSettings("wikitext-103", 1, str(tmp_path / "set")))
    assert found == prompts.load_texts(PromptSettings("wikitext-103", 1, str(corpus)))


def test_wikitext_without_cache_or_network_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    with pytest.raises(BenchError) as caught:
        prompts.load_texts(PromptSettings("wikitext-103", 8))
    assert "dataset Salesforce/wikitext is not in the cache" in caught.value.message
    assert "dlmbench download --config" in caught.value.hint


def test_batches_are_full_and_start_again_in_front(corpus):
    found = prompts.take(PromptSettings("wikitext-103", 5, str(corpus)), FINE, 30, 10)
    assert [b.indices for b in prompts.in_batches(found, 3)] == [(0, 1, 2), (3, 4, 0)]
    assert [b.indices for b in prompts.in_batches(found, 7)] == [(0, 1, 2, 3, 4, 0, 1)]
    assert {b.prompt_hash for b in prompts.in_batches(found, 2)} == {found.prompt_hash}


def test_tiny_stories_are_held_out_and_known_to_the_oracle():
    words = prompts.Tokenizer(encode=lambda t: encode(t.split()), decode=lambda ids: " ".join(map(str, ids)))
    found = prompts.take(PromptSettings("tiny", 3), words, 64, 64)
    assert found.prompts[1].ids + found.prompts[1].reference_ids == tuple(encode(story_of("heldout", 1, 128)))
    assert found.prompts[1].ids != tuple(encode(story_of("training", 1, 64)))
    longer = prompts.take(PromptSettings("tiny", 1), words, 64, 200).prompts[0]
    assert longer.ids + longer.reference_ids[:64] == found.prompts[0].ids + found.prompts[0].reference_ids
    other = prompts.take(PromptSettings("tiny", 3, seed=1), words, 64, 64)
    assert not {p.ids for p in other.prompts} & {p.ids for p in found.prompts}


# ---------------------------------------------------------------- the same bytes


def checked_span(text, prompt_tokens, new_tokens, target, baseline):
    ids = list(target.encode(text))[: prompt_tokens + new_tokens]
    span = prompts.same_bytes(ids, prompt_tokens, target.decode, baseline.encode)
    assert text.startswith(span.before + span.text)
    assert baseline.decode(span.prompt_ids) + baseline.decode(span.reference_ids) == span.before + span.text
    scored = ids[prompt_tokens + span.first : prompt_tokens + span.last]
    assert target.decode(scored) == span.text
    return span


@pytest.mark.parametrize(("target", "baseline"), [(FINE, COARSE), (COARSE, FINE)], ids=["fine", "coarse"])
def test_both_models_score_the_same_bytes(target, baseline):
    span = checked_span(" ".join(SENTENCES), 30, 20, target, baseline)
    assert (span.first, span.last) == (0, 20)
    assert len(span.reference_ids) != 20  # the tokenizers do differ
    opening = tuple(baseline.encode(""))
    assert span.prompt_ids[: len(opening)] == opening
    assert not opening or opening[0] not in span.reference_ids


def test_a_span_is_cut_inwards_to_whole_characters():
    text = "ab🦞cd🦞ef"
    # one id a byte: the prompt ends inside the first lobster, the continuation inside the second
    span = checked_span(text, 4, 7, prompts.BYTES, FINE)
    assert (span.before, span.text) == ("ab🦞", "cd")
    assert (span.first, span.last) == (2, 4)


@given(st.text(alphabet="aé冬🦞 ,", min_size=30, max_size=50), st.integers(1, 12), st.integers(8, 14))
@settings(max_examples=60, deadline=None)
def test_any_cut_of_any_text_gives_the_same_bytes(text, prompt_tokens, new_tokens):
    for target, baseline in ((FINE, COARSE), (prompts.BYTES, FINE)):
        checked_span(text, prompt_tokens, new_tokens, target, baseline)


def test_spans_of_a_prompt_set(corpus):
    asked = PromptSettings("wikitext-103", 4, str(corpus))
    found = prompts.take(asked, FINE, 30, 20, also=[COARSE])
    spans = prompts.scored_spans(found, FINE, COARSE)
    assert [s.text for s in spans] == [p.reference_text for p in found.prompts]
    without = replace(found, prompts=tuple(replace(p, reference_ids=None) for p in found.prompts))
    with pytest.raises(BenchError, match="prompt 1 has no true continuation"):
        prompts.scored_spans(without, FINE, COARSE)


# ---------------------------------------------------------------- files of one's own


def file_settings(path, **more):
    return PromptSettings("file", more.pop("count", None), str(path), **more)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("p.txt", "one\ntwo\r\nthree\n", [("one", None), ("two", None), ("three", None)]),
        ("p.txt", "one\nstill one\n\n \ntwo\n", [("one\nstill one", None), ("two", None)]),
        ("p.txt", "\ufeffone\n", [("one", None)]),
        ("p.jsonl", '{"prompt": "one", "reference": "1"}\n\n{"prompt": "two"}\n', [("one", "1"), ("two", None)]),
        ("p.jsonl", '"one"\n', [("one", None)]),
        ("p.txt", '{"prompt": "one"}\n', [("one", None)]),
        ("p.json", '["one", {"prompt": "two", "reference": "2"}]', [("one", None), ("two", "2")]),
        (
            "p.json",
            json.dumps([{"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]}]),
            [("hi\n\n", "yes")],
        ),
    ],
)
def test_kinds_of_prompt_files(tmp_path, name, content, expected):
    path = tmp_path / name
    path.write_bytes(content.encode())
    assert [(p.text, p.reference) for p in prompts.load_texts(file_settings(path))] == expected


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("p.txt", b"", "is empty"),
        ("p.txt", b" \n\n", "is empty"),
        ("p.txt", b"a\x00b", "is not a text file"),
        ("p.txt", b"good\nbad \xff\n", "line 2 is not UTF-8"),
        ("p.jsonl", b'{"prompt": "a"}\n{"prompt": \n', "line 2 is not JSON"),
        ("p.jsonl", b'{"prompt": "a"}\n{"prompt": ' + b"9" * 5000 + b"}\n", "line 2: a number has too many digits"),
        ("p.jsonl", b"[" * 100_000 + b"\n", "line 1: the JSON is nested too deeply"),
        ("p.jsonl", b'{"text": "a"}\n', "line 1 has neither 'prompt' nor 'prompt_ids'"),
        ("p.jsonl", b'{"prompt": ""}\n', "line 1: 'prompt' is empty"),
        ("p.jsonl", b'{"prompt": 3}\n', "line 1: 'prompt' is not a text"),
        ("p.jsonl", b'{"prompt": "a", "reference": " "}\n', "line 1: 'reference' is empty"),
        ("p.jsonl", b'{"prompt_ids": []}\n', "line 1: 'prompt_ids' is empty"),
        ("p.jsonl", b'{"prompt_ids": {}}\n', "line 1: 'prompt_ids' is not a list of token ids"),
        ("p.jsonl", b'{"prompt": "a", "prompt_ids": [1]}\n', "line 1 mixes texts and ids"),
        ("p.jsonl", b'{"prompt_ids": [1, -2]}\n', "line 1: 'prompt_ids' is not a list of token ids"),
        ("p.jsonl", b"3\n", "line 1 is not a record"),
        ("p.json", b'{"prompt": "a"}', "is not a JSON list"),
        ("p.json", b"[1,\n2", "line 2 is not JSON"),
        ("p.json", b'[{"conversations": 3}]', "record 1 has no list 'conversations'"),
    ],
)
def test_broken_prompt_files(tmp_path, name, content, expected):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BenchError) as caught:
        prompts.load_texts(file_settings(path))
    assert str(path) in caught.value.message
    assert expected in caught.value.message


def test_a_missing_prompt_file(tmp_path):
    for ask in (prompts.load_texts, prompts.identity):
        with pytest.raises(BenchError, match="no prompt file at"):
            ask(file_settings(tmp_path / "none.txt"))
    with pytest.raises(BenchError, match="is a folder"):
        prompts.load_texts(file_settings(tmp_path))


def test_a_file_is_taken_in_order_as_far_as_it_is_long_enough(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("\n".join(["x" * 30, "short", "y" * 40, "z" * 50]))
    assert [p.text for p in prompts.take(file_settings(path), prompts.BYTES, 8, 8).prompts] == [
        "x" * 8,
        "y" * 8,
        "z" * 8,
    ]
    assert len(prompts.take(file_settings(path, limit=2), prompts.BYTES, 8, 8).prompts) == 2
    with pytest.raises(BenchError, match=r"found 3 prompts of 4 requested .*; of 4 passages the longest has 50 tokens"):
        prompts.take(file_settings(path, count=4), prompts.BYTES, 8, 8)


def test_references_of_their_own_follow_the_end_of_the_prompt(tmp_path):
    path = tmp_path / "p.jsonl"
    records = [
        {"prompt": "0123456789", "reference": "abcdef"},
        {"prompt_ids": list(range(9)), "reference_ids": [7, 8, 9]},
    ]
    path.write_text("\n".join(map(json.dumps, records)))
    found = prompts.take(file_settings(path), prompts.BYTES, 4, 3).prompts
    assert (found[0].text, found[0].reference_text) == ("6789", "abc")
    assert (found[1].ids, found[1].reference_ids) == ((5, 6, 7, 8), (7, 8, 9))
    kept = prompts.take(file_settings(path), COARSE, 3, 2).prompts[0]
    assert kept.ids[0] == COARSE.encode("")[0]
    assert "01" not in kept.text


def test_prompts_without_a_continuation_when_none_is_needed(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("12345678\n")
    assert prompts.take(file_settings(path), prompts.BYTES, 8, 4, references=False).prompts[0].reference_ids is None
    with pytest.raises(BenchError, match="found 0 prompts"):
        prompts.take(file_settings(path), prompts.BYTES, 8, 4)


def test_sharegpt_takes_the_first_answered_question(tmp_path):
    path = tmp_path / "chats.json"
    turns = [("system", "be kind"), ("human", "why?"), ("gpt", "because"), ("human", "and?"), ("gpt", "so")]
    talk = {"conversations": [{"from": who, "value": what} for who, what in turns]}
    unanswered = {"conversations": [{"from": "human", "value": "anybody?"}]}
    path.write_text(json.dumps([talk, unanswered]))
    found = prompts.load_texts(PromptSettings("sharegpt", 1, str(path)))
    assert [(p.text, p.reference) for p in found] == [("why?\n\n", "because")]


def test_a_chat_template_is_part_of_the_exact_length(tmp_path):
    path = tmp_path / "chats.json"
    path.write_text(json.dumps([{"prompt": "tell me everything", "reference": "no"}]))
    chatting = prompts.Tokenizer(
        prompts.BYTES.encode, prompts.BYTES.decode, chat=lambda text: prompts.BYTES.encode(f"<{text}>")
    )
    found = prompts.take(file_settings(path, chat=True), chatting, 9, 2).prompts[0]
    assert (found.text, found.reference_text) == ("<tell me>", "no")
    with pytest.raises(BenchError, match="chat template"):
        prompts.take(file_settings(path, chat=True), prompts.BYTES, 9, 2)


def test_identity_names_the_content_and_not_the_path(tmp_path):
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("same")
    two.write_text("same")
    names = [prompts.identity(file_settings(p)) for p in (one, two)]
    assert names[0] == names[1]
    two.write_text("other")
    assert prompts.identity(file_settings(two)) != names[0]
    kinds = [PromptSettings("tiny", 8), PromptSettings("tiny", 9), PromptSettings("tiny", 8, seed=1)]
    assert len({prompts.identity(k) for k in kinds}) == 3
    assert prompts.identity(PromptSettings("tiny", 8)) == "tiny n=8 seed=0"


@pytest.mark.skipif("DLMBENCH_WIKITEXT" not in os.environ, reason="DLMBENCH_WIKITEXT names no file")
def test_the_real_validation_split_is_long_enough_for_the_primary_experiment():
    path = os.environ["DLMBENCH_WIKITEXT"]
    assert Path(path).is_file()
    asked = PromptSettings("wikitext-103", 32, path)
    assert len(prompts.load_texts(asked)) == 60
    for prompt_tokens in (384, 896):
        assert len(prompts.take(asked, FINE, prompt_tokens, 128, also=[COARSE]).prompts) == 32
