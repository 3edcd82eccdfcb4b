"""lm-eval's model `dlmbench`: answers its requests with the project's engines and samplers.

A diffusion model fills a canvas of fixed length, so a text is generated whole and then cut at its first end of text or
stop string; autoregressive models are treated alike. The answer to a request does not depend on its batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from dlmbench import models, registry
from dlmbench.bench.generate import ATTENTION, PRECISIONS, default_device
from dlmbench.bench.worker import Failed, Worker, WorkerRequest, WorkerState
from dlmbench.errors import BenchError, did_you_mean
from dlmbench.experiment.load import MOST, knob_values
from dlmbench.models import FoundModel
from dlmbench.tasks.records import LIKELIHOODS, TaskModelArgs
from dlmbench.tasks.requests import (
    Generations,
    GreedyMatches,
    Ids,
    LogLikelihoods,
    Pair,
    complete_args,
    load_model,
)
from dlmbench.types import KnobValue, ModelSpec

LOG = logging.getLogger("lm_eval.dlmbench")
LOG.setLevel(logging.WARNING)  # even where lm-eval's own logging is reduced

AnswerT = TypeVar("AnswerT")
# Called with the number of requests that were answered.
Advance = Callable[[int], object]
# Shows the progress of a number of requests of one kind.
ProgressBar = Callable[[str, int], AbstractContextManager[Advance]]

# --model_args beside the model and the knobs: the least value of numbers, the choices of texts, and names.
_LEAST = {"seed": 0, "draws": 1, "max_length": 1, "new_tokens": 1}
_CHOICES: dict[str, tuple[str, ...]] = {
    "likelihood": LIKELIHOODS,
    "precision": PRECISIONS,
    "attention": ATTENTION,
    "check_greedy": ("true", "false"),
}
_NAMES = ("sampler", "engine")
_SUPPORTED = ("until", "max_gen_toks", "do_sample", "temperature")
# Other generation arguments of transformers: those that only matter where tokens are drawn, and values without effect.
_DRAWING = ("top_p", "top_k", "min_p", "typical_p")
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "top_p": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "typical_p": (1,),
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "repetition_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "min_new_tokens": (0,),
    "use_cache": (True, False),
}


@contextmanager
def tqdm_bar(what: str, total: int) -> Iterator[Advance]:
    """The progress bar that lm-eval's users know."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    with tqdm(total=total, desc=what) as bar:
        yield bar.update


class RequestFailedError(Exception):
    """A worker failed to answer; `failed` states how that is recorded."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.reason)
        self.failed = failed


@register_model("dlmbench")
class DlmbenchLM(TemplateLM):  # type: ignore[misc]
    """An LLaDA-like or LLaMA-like checkpoint behind lm-eval's interface.

    The model runs in a worker of the benchmark, or in this process (its `WorkerState`).
    """

    def __init__(
        self, batch_size: int | str = 1, device: str | None = None, max_batch_size: int | None = None, **kwargs: Any
    ) -> None:
        """Load a model into this process, by lm-eval's own arguments and those of `read_model_args`."""
        import torch

        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise BenchError(f"--batch_size {batch_size}: automatic batch sizes are not supported", "Give a number")
        args = read_model_args(kwargs, int(batch_size))
        if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
            device = None  # lm-eval's default is cuda:0, so the user need not have asked for it
        state = WorkerState(device or default_device())
        self._setup(args, models.find(args.model), state, tqdm_bar)
        load_model(self.args, state)

    @classmethod
    def from_worker(
        cls, args: TaskModelArgs, found: FoundModel, worker: Worker | WorkerState, bar: ProgressBar
    ) -> DlmbenchLM:
        """The interface over a model that a worker loads or has loaded.

        Raises:
            BenchError: no tokenizer, or a sampler, engine or knob that does not fit.
        """
        lm = cls.__new__(cls)
        lm._setup(args, found, worker, bar)
        return lm

    def _setup(self, args: TaskModelArgs, found: FoundModel, worker: Worker | WorkerState, bar: ProgressBar) -> None:
        super().__init__()
        if found.tokenizer is None:
            raise BenchError(f"{found.folder} has no tokenizer.json", "Fetch it with `dlmbench download`")
        self.args = complete_args(args, found, worker.device)
        self.architecture, self.worker, self.bar = found.architecture, worker, bar
        self.checkpoint_tokenizer, self.tokenizer = found.tokenizer, found.tokenizer.pretrained
        ends = (*self.architecture.eos_ids, self.architecture.eot_id, self.tokenizer.eos_token_id)
        self._end_ids = {end for end in ends if end is not None}
        self._cut_contexts = 0

    def _answers(self, request: WorkerRequest[tuple[int, AnswerT]], count: int, advance: Advance) -> list[AnswerT]:
        """The `count` answers to a request, by their index; they come in another order.

        Raises:
            BenchError: knobs that do not fit a length (in this process).
            RequestFailedError: the worker failed.
        """
        answers: dict[int, AnswerT] = {}
        for reply in self.worker.ask(request):
            if isinstance(reply, Failed):
                raise RequestFailedError(reply)
            answers[reply[0]] = reply[1]
            advance(1)
        return [answers[i] for i in range(count)]

    # ---------------------------------------------------------------- what lm-eval needs of a tokenizer

    @property
    def max_length(self) -> int:
        """Maximum tokens of a request: context and continuation."""
        return self.args.max_length or self.architecture.max_positions

    @property
    def eot_token_id(self) -> int:
        """The end-of-text token."""
        end = self.tokenizer.eos_token_id
        end = self.architecture.eos_id if end is None else end
        if end is None:
            raise BenchError("the checkpoint names no end-of-text token", "Add eos_token to its tokenizer_config.json")
        return int(end)

    @property
    def prefix_token_id(self) -> int:
        """The token that stands for an empty context: the start of a text, or else the end of one."""
        start = self.tokenizer.bos_token_id
        return self.eot_token_id if start is None else int(start)

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in lm-eval's cache of requests."""
        return f"dlmbench-{self.checkpoint_tokenizer.content[:16]}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids of a text; the tokenizer's start tokens are added unless a chat template has added them already."""
        plain = self.checkpoint_tokenizer.encode(string, special=False)
        if add_special_tokens is False:
            return plain
        special = self.checkpoint_tokenizer.encode(string)
        start = special[: len(special) - len(plain)]
        return plain if start and plain[: len(start)] == start else special

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The turns as one text in the checkpoint's chat template.

        Raises:
            BenchError: the checkpoint has no chat template.
        """
        text: str = self.checkpoint_tokenizer.apply_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    # ---------------------------------------------------------------- the three kinds of requests

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """lm-eval's splitting into context and continuation; its bar is shown only beside our tqdm bar."""
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm or self.bar is not tqdm_bar)
        return answers

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """log p(continuation | context), and whether greedy decoding generates the continuation."""
        pairs = self._pairs([(context, continuation) for _, context, continuation in requests])
        with self._progress("log-likelihoods", len(pairs)) as advance:
            nats = self._answers(LogLikelihoods(self.args, pairs), len(pairs), advance)
        is_greedy = [False] * len(pairs)
        if self.args.check_greedy:
            with self._progress("greedy continuations", len(pairs)) as advance:
                is_greedy = self._answers(GreedyMatches(self.args, pairs), len(pairs), advance)
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
            rolling = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length - 1, context_len=1)
            for window in map(make_disjoint_window, rolling):
                windows.append(window)
                owners.append(index)
        pairs = self._pairs(windows)
        totals = [0.0] * len(texts)
        with self._progress("texts", len(pairs)) as advance:
            nats = self._answers(LogLikelihoods(self.args, pairs), len(pairs), advance)
        for owner, value in zip(owners, nats, strict=True):
            totals[owner] += value
        for text, total in zip(texts, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continuations, each cut at its first end of text or stop string."""
        arguments = [normalize_gen_kwargs(request.args[1]) for request in requests]
        settings = [self._generation_settings(kwargs) for kwargs in arguments]
        texts = [""] * len(requests)
        with self._progress("generations", len(requests)) as advance:
            for new_tokens, temperature in sorted(set(settings)):
                chosen = [i for i, own in enumerate(settings) if own == (new_tokens, temperature)]
                contexts = tuple(self._fit(self.tok_encode(requests[i].args[0]), new_tokens) for i in chosen)
                request = Generations(self.args, contexts, new_tokens, temperature)
                for i, ids in zip(chosen, self._answers(request, len(chosen), advance), strict=True):
                    texts[i] = self._until(ids, arguments[i]["until"])
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    # ---------------------------------------------------------------- lengths and ends

    def _generation_settings(self, kwargs: Mapping[str, Any]) -> tuple[int, float]:
        """Number of new tokens, and the temperature.

        Raises:
            BenchError: an argument that would change the text and that no sampler supports.
        """
        temperature = float(kwargs["temperature"]) if kwargs["do_sample"] else 0.0
        for name, value in kwargs.items():
            has_no_effect = value in (None, *_NEUTRAL.get(name, ())) or (temperature == 0 and name in _DRAWING)
            if name not in _SUPPORTED and not has_no_effect:
                hint = f"Override it with --gen_kwargs {name}=..."
                if name in _DRAWING:
                    hint += ", or ask for greedy decoding: do_sample=False"
                raise BenchError(f"the task requests {name} = {value}, which no sampler supports", hint)
        return self.args.new_tokens or int(kwargs["max_gen_toks"]), temperature

    def _pairs(self, windows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> tuple[Pair, ...]:
        pairs = []
        for context, continuation in windows:
            if not continuation:
                raise BenchError("empty continuation", "Look for an empty answer in the task's documents")
            pairs.append(Pair(self._fit(context, len(continuation)), tuple(continuation)))
        return tuple(pairs)

    def _fit(self, context: Sequence[int], new_tokens: int) -> Ids:
        """The context, cut on the left where `new_tokens` more would exceed `max_length`."""
        available = self.max_length - new_tokens
        if available < 1:
            hint = "Ask for fewer new tokens (new_tokens, the task's max_gen_toks), or raise max_length"
            raise BenchError(f"{new_tokens} tokens and their context do not fit into {self.max_length}", hint)
        if len(context) > available:
            self._cut_contexts += 1
        return tuple(context[-available:]) or (self.prefix_token_id,)

    def _until(self, ids: Ids, until: list[str]) -> str:
        ends = self._end_ids | {end for stop in until if (end := self._special_id(stop)) is not None}
        last = next((i for i, token in enumerate(ids) if token in ends), len(ids))
        text: str = postprocess_generated_text(self.checkpoint_tokenizer.decode(ids[:last]), until, None)
        return text

    def _special_id(self, stop: str) -> int | None:
        """The id of a stop string that is a special token, which leaves no trace in decoded text."""
        ids = self.checkpoint_tokenizer.encode(stop, special=False)
        return ids[0] if len(ids) == 1 and ids[0] in self.tokenizer.all_special_ids else None

    @contextmanager
    def _progress(self, what: str, total: int) -> Iterator[Advance]:
        with self.bar(what, total) as advance:
            yield advance
        if self._cut_contexts:
            LOG.warning(
                "%d of %d contexts were truncated on the left to fit %d tokens",
                self._cut_contexts,
                total,
                self.max_length,
            )
            self._cut_contexts = 0


def read_model_args(given: Mapping[str, Any], rows: int = 1) -> TaskModelArgs:
    """`--model_args`, strictly: the arguments of `TaskModelArgs`, and every knob of every sampler by its name.

    Raises:
        BenchError: no model, an unknown argument (with the nearest known), or a value of the wrong type.
    """
    # lm-eval has made true and false Python's already.
    values = {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in given.items() if v is not None}
    if "trust_remote_code" in values:
        raise BenchError("remote code is not supported", "Leave trust_remote_code out")
    if "pretrained" not in values:
        raise BenchError("--model_args names no model", "As in pretrained=FOLDER, a hub id, or embedded:llada")
    model = ModelSpec("model", "", values.pop("pretrained"), "target", values.pop("revision", None))
    chosen: dict[str, Any] = {}
    knobs: dict[str, KnobValue] = {}
    for name, value in values.items():
        if name in _LEAST:
            # No number up to MOST has more digits, and Python reads none of thousands of them.
            if not value.isdecimal() or len(value) > len(str(MOST)) or not _LEAST[name] <= int(value) <= MOST:
                hint = f"Give a whole number of at least {_LEAST[name]} and at most {MOST}"
                raise BenchError(f"--model_args: {name} = {value}", hint)
            chosen[name] = int(value)
        elif name in _CHOICES:
            if value not in _CHOICES[name]:
                raise BenchError(f"--model_args: unknown {name} '{value}'", did_you_mean(value, _CHOICES[name]))
            chosen[name] = value == "true" if name == "check_greedy" else value
        elif name in _NAMES:
            chosen[name] = value
        elif name in registry.knob_names():
            knobs[name] = knob_values(name, [value])[0]
        else:
            known = ("pretrained", "revision", *_LEAST, *_CHOICES, *_NAMES, *registry.knob_names())
            raise BenchError(f"--model_args: unknown '{name}'", did_you_mean(name, known))
    return TaskModelArgs(model=model, knobs=tuple(sorted(knobs.items())), rows=rows, **chosen)
