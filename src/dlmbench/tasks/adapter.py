"""The model `dlmbench` of lm-eval: its requests, answered by our engines and samplers.

A diffusion model writes a canvas of fixed length, so a generation is made whole and then cut at its first end of text
or stop string; autoregressive models are treated alike. Values of a request do not depend on the batch it is in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from dlmbench import registry
from dlmbench.bench.generate import ATTENTION, PRECISIONS
from dlmbench.errors import BenchError, did_you_mean
from dlmbench.experiment import knobs as axes
from dlmbench.tasks.subject import LIKELIHOODS, Done, Ids, Pair, Setup, Subject
from dlmbench.types import KnobValue, ModelSpec

LOG = logging.getLogger("lm_eval.dlmbench")
LOG.setLevel(logging.WARNING)  # also where lm-eval's own talk is turned down

# Told of each kind of work when it begins, with the number of requests; gives back who counts them.
Watch = Callable[[str, int], Done]

_COUNTS = ("draws", "max_length", "new_tokens")
_CHOICES = {
    "likelihood": LIKELIHOODS,
    "precision": PRECISIONS,
    "attention": ATTENTION,
}
_OWN = ("pretrained", "revision", "sampler", "engine", "seed", "check_greedy", *_COUNTS, *_CHOICES)
# What a task may ask of generation beyond this bends the draws, so at temperature 0 it is without effect.
_UNDERSTOOD = ("until", "max_gen_toks", "do_sample", "temperature")
_NEUTRAL: dict[str, tuple[object, ...]] = {"top_p": (1, 1.0), "top_k": (0, -1), "num_beams": (1,)}


@register_model("dlmbench")
class DlmbenchLM(TemplateLM):  # type: ignore[misc]
    """An LLaDA-like or LLaMA-like checkpoint behind lm-eval's interface."""

    def __init__(
        self, batch_size: int | str = 1, device: str | None = None, max_batch_size: int | None = None, **given: Any
    ) -> None:
        """lm-eval's own arguments, and those of `read_setup`."""
        super().__init__()
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise BenchError(f"--batch_size {batch_size}: the size is not searched for", "Give a number, as in 8")
        self.subject = Subject.load(read_setup(given, int(batch_size)), _device(device))
        self.watch: Watch = _bar
        self._prepare()

    @classmethod
    def over(cls, subject: Subject, watch: Watch) -> DlmbenchLM:
        """The interface over a model that is loaded already."""
        made = cls.__new__(cls)
        super(DlmbenchLM, made).__init__()
        made.subject, made.watch = subject, watch
        made._prepare()
        return made

    def _prepare(self) -> None:
        architecture, self.tokenizer = self.subject.model.architecture, self.subject.codec.pretrained
        self._device = self.subject.model.device
        ends = (architecture.eos_id, architecture.eot_id, self.tokenizer.eos_token_id)
        self._ends = {end for end in ends if end is not None}
        self._cut = 0

    # ---------------------------------------------------------------- what lm-eval asks of a tokenizer

    @property
    def max_length(self) -> int:
        """Tokens of a request at most."""
        return self.subject.max_length

    @property
    def eot_token_id(self) -> int:
        """The end-of-text token."""
        end = self.tokenizer.eos_token_id
        end = self.subject.model.architecture.eos_id if end is None else end
        if end is None:
            raise BenchError("the checkpoint names no end-of-text token", "Add eos_token to its tokenizer_config.json")
        return int(end)

    @property
    def prefix_token_id(self) -> int:
        """What an empty context is: the token that begins a text, or the one that ends the last."""
        start = self.tokenizer.bos_token_id
        return self.eot_token_id if start is None else int(start)

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in lm-eval's cache of requests."""
        return f"dlmbench-{self.subject.codec.content[:16]}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids of a text; the tokenizer's own beginning is added unless a chat template has put it there already."""
        plain = self.subject.codec.encode(string, special=False)
        if add_special_tokens is False:
            return plain
        special = self.subject.codec.encode(string)
        beginning = special[: len(special) - len(plain)]
        return plain if beginning and plain[: len(beginning)] == beginning else special

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The turns as one text in the checkpoint's chat template.

        Raises:
            BenchError: the checkpoint has no chat template.
        """
        if not self.tokenizer.chat_template:
            source = self.subject.setup.model.source
            raise BenchError(f"{source} has no chat template", "Leave the chat option out, or use an Instruct model")
        text: str = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    # ---------------------------------------------------------------- the three kinds of requests

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """lm-eval's own splitting into context and continuation; its bar is shown only beside ours."""
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm or self.watch is not _bar)
        return answers

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """log p(continuation | context), and whether greedy decoding writes the continuation."""
        pairs = self._pairs([(context, continuation) for _, context, continuation in requests])
        with self._watched("log-likelihoods", len(pairs)) as done:
            nats = self.subject.log_likelihoods(pairs, done)
        is_greedy = [False] * len(pairs)
        if self.subject.setup.check_greedy:
            with self._watched("greedy continuations", len(pairs)) as done:
                is_greedy = self.subject.greedy(pairs, done)
        answers = list(zip(nats, is_greedy, strict=True))
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", request[0], answer)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """log p of whole texts: windows of at most `max_length` tokens, each token predicted once, in nats."""
        texts = [request.args[0] for request in requests]
        windows: list[tuple[list[int], list[int]]] = []
        owners: list[int] = []
        for index, text in enumerate(texts):
            ids = self.tok_encode(text, add_special_tokens=False)
            cut = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length - 1, context_len=1)
            for window in map(make_disjoint_window, cut):
                windows.append(window)
                owners.append(index)
        pairs = self._pairs(windows)
        totals = [0.0] * len(texts)
        with self._watched("texts", len(pairs)) as done:
            for owner, nats in zip(owners, self.subject.log_likelihoods(pairs, done), strict=True):
                totals[owner] += nats
        for text, total in zip(texts, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continuations, each cut at its first end of text or stop string."""
        asked = [normalize_gen_kwargs(request.args[1]) for request in requests]
        kinds = [self._canvas(kwargs) for kwargs in asked]
        texts = [""] * len(requests)
        with self._watched("generations", len(requests)) as done:
            for new_tokens, temperature in sorted(set(kinds)):
                chosen = [i for i, kind in enumerate(kinds) if kind == (new_tokens, temperature)]
                contexts = [self._fitted(self.tok_encode(requests[i].args[0]), new_tokens) for i in chosen]
                made = self.subject.generate(contexts, new_tokens, temperature, done)
                for i, ids in zip(chosen, made, strict=True):
                    texts[i] = self._until(ids, asked[i]["until"])
        for request, written in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, written)
        return texts

    # ---------------------------------------------------------------- lengths and ends

    def _canvas(self, kwargs: Mapping[str, Any]) -> tuple[int, float]:
        """How many tokens to write, and at what temperature."""
        temperature = float(kwargs["temperature"]) if kwargs["do_sample"] else 0.0
        for name, value in kwargs.items():
            if name not in _UNDERSTOOD and temperature > 0 and value not in (None, *_NEUTRAL.get(name, ())):
                hint = f"Override it with --gen_kwargs {name}=..., or ask for greedy decoding: do_sample=False"
                raise BenchError(f"the task draws its texts with {name} = {value}, which no sampler here has", hint)
        return self.subject.setup.new_tokens or int(kwargs["max_gen_toks"]), temperature

    def _pairs(self, windows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Pair]:
        pairs = []
        for context, continuation in windows:
            if not continuation:
                raise BenchError("a continuation has no token", "Look for an empty answer in the task's documents")
            pairs.append(Pair(self._fitted(context, len(continuation)), tuple(continuation)))
        return pairs

    def _fitted(self, context: Sequence[int], behind: int) -> Ids:
        """The context, or its last part where `behind` tokens more would not fit."""
        room = self.max_length - behind
        if room < 1:
            hint = "Ask for fewer new tokens (new_tokens, the task's max_gen_toks), or raise max_length"
            raise BenchError(f"{behind} tokens and their context do not fit into {self.max_length}", hint)
        if len(context) > room:
            self._cut += 1
        return tuple(context[-room:]) or (self.prefix_token_id,)

    def _until(self, ids: Ids, until: list[str]) -> str:
        ends = self._ends | {end for stop in until if (end := self._special(stop)) is not None}
        last = next((i for i, token in enumerate(ids) if token in ends), len(ids))
        text: str = postprocess_generated_text(self.subject.codec.decode(ids[:last]), until, None)
        return text

    def _special(self, stop: str) -> int | None:
        """The id of a stop string that is a special token, for those leave no trace in a decoded text."""
        ids = self.subject.codec.encode(stop, special=False)
        return ids[0] if len(ids) == 1 and ids[0] in self.tokenizer.all_special_ids else None

    @contextmanager
    def _watched(self, what: str, total: int) -> Iterator[Done]:
        done = self.watch(what, total)
        try:
            yield done
        finally:
            getattr(done, "close", lambda: None)()
        if self._cut:
            LOG.warning("%d of %d contexts are cut on the left to fit %d tokens", self._cut, total, self.max_length)
            self._cut = 0


class _Bar:
    """lm-eval's users know tqdm's bars."""

    def __init__(self, what: str, total: int) -> None:
        from tqdm import tqdm  # type: ignore[import-untyped]

        self._tqdm = tqdm(total=total, desc=what)

    def __call__(self, count: int) -> None:
        self._tqdm.update(count)

    def close(self) -> None:
        """The bar stays as it is."""
        self._tqdm.close()


def _bar(what: str, total: int) -> Done:
    return _Bar(what, total)


def _device(asked: str | None) -> str | None:
    """lm-eval asks for cuda:0 where its user says nothing, so on a machine without one that is no mistake."""
    import torch

    return None if asked is not None and asked.startswith("cuda") and not torch.cuda.is_available() else asked


# ---------------------------------------------------------------- --model_args


def read_setup(given: Mapping[str, Any], rows: int = 1) -> Setup:
    """`--model_args`, strictly: the arguments of `Setup`, and every knob of every sampler by its name.

    Raises:
        BenchError: no model, an unknown argument (with the nearest known), or a value of the wrong type.
    """
    values = {name: str(value) for name, value in given.items() if value is not None}
    if "trust_remote_code" in values:
        raise BenchError("no code of a checkpoint is ever run here", "Leave trust_remote_code out")
    if "pretrained" not in values:
        raise BenchError("--model_args names no model", "As in pretrained=FOLDER, a hub id, or embedded:llada")
    knobs: dict[str, KnobValue] = {}
    for name, value in values.items():
        if name not in _OWN:
            if name not in registry.knob_names():
                raise BenchError(f"--model_args: unknown '{name}'", did_you_mean(name, (*_OWN, *registry.knob_names())))
            knobs[name] = axes.from_text(name, [value])[0]
    for name, choices in _CHOICES.items():
        if name in values and values[name] not in choices:
            raise BenchError(f"--model_args: unknown {name} '{values[name]}'", did_you_mean(values[name], choices))
    counts = {name: _count(name, values[name]) for name in _COUNTS if name in values}
    greedy = values.get("check_greedy", "true").lower()
    if greedy not in ("true", "false"):
        raise BenchError(f"--model_args: check_greedy = {greedy}", "true or false")
    spec = ModelSpec("model", "", values["pretrained"], "target", values.get("revision"))
    texts = {name: values[name] for name in ("sampler", "engine", *_CHOICES) if name in values}
    return Setup(
        model=spec,
        knobs=tuple(sorted(knobs.items())),
        seed=_count("seed", values.get("seed", "0"), least=0),
        rows=rows,
        check_greedy=greedy == "true",
        **texts,  # type: ignore[arg-type]
        **counts,  # type: ignore[arg-type]
    )


def _count(name: str, text: str, least: int = 1) -> int:
    if not text.isdecimal() or int(text) < least:
        raise BenchError(f"--model_args: {name} = {text}", f"A whole number of at least {least}")
    return int(text)
