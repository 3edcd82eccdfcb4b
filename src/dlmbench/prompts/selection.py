"""The choice of passages, and how they become prompts of exactly P tokens with continuations of exactly G.

Every model of an experiment must see the same passages, and their tokenizers differ: a passage is chosen when it is
long enough for all of them, and the choice depends on nothing but the settings, the text and the tokenizers.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence

from dlmbench import registry
from dlmbench.errors import BenchError
from dlmbench.prompts.passages import Passage, load_texts
from dlmbench.prompts.spans import Tokenizer, continuation, whole_characters
from dlmbench.types import Prompt, PromptBatch, PromptSettings, stable_hash

# English has 4 to 5 characters per token; a slice that proves too short for P + G tokens is doubled.
_CHARACTERS_A_TOKEN = 6


def in_batches(every: PromptBatch, rows: int) -> tuple[PromptBatch, ...]:
    """All prompts in batches of exactly `rows`; the last batch is filled up from the beginning of the set."""
    prompts, count = every.prompts, -(-len(every.prompts) // rows)
    ordered = tuple(prompts[i % len(prompts)] for i in range(count * rows))
    return tuple(PromptBatch(ordered[i * rows : (i + 1) * rows], every.prompt_hash) for i in range(count))


# ---------------------------------------------------------------- the choice


def choose(
    settings: PromptSettings,
    tokenizers: Sequence[Tokenizer],
    prompt_tokens: int,
    new_tokens: int,
    references: bool = True,
) -> tuple[Passage, ...]:
    """Passages that give at least P prompt and G continuation tokens under every tokenizer.

    Smaller sets are prefixes of larger ones. With `references` False the continuation may be
    missing, and prompts of P tokens suffice.

    Raises:
        BenchError: too few passages qualify.
    """
    source = registry.load("prompts", settings.source)
    total = prompt_tokens + new_tokens
    texts = load_texts(settings, total)
    if source.SHUFFLED:
        texts.sort(key=lambda p: hashlib.sha256(f"{settings.seed}\0{p.text}".encode()).digest())
    passages: Iterator[Passage] = iter(texts)
    if source.WINDOWS:
        length = total if references else prompt_tokens
        passages = _round_robin([_windows(p.text, tokenizers, length) for p in texts])
    wanted = settings.count if settings.count is not None else settings.limit
    found: list[Passage] = []
    seen = longest = 0
    for passage in passages:
        seen += 1
        cuts = [_cut(passage, t, prompt_tokens, new_tokens, references, settings.chat) for t in tokenizers]
        longest = max(longest, min(length for _, length in cuts))
        if all(cut is not None for cut, _ in cuts):
            found.append(passage)
            if len(found) == wanted:
                break
    if not found or (settings.count is not None and len(found) < settings.count):
        need = f"{prompt_tokens} prompt and {new_tokens} reference tokens" if references else f"{prompt_tokens} tokens"
        where = f" in {settings.path}" if settings.path else ""
        requested = f" of {settings.count} requested" if settings.count is not None else ""
        longest_one = f"; of {seen} passages the longest has {longest} tokens" if seen else ""
        raise BenchError(
            f"prompt source {settings.source}{where}: found {len(found)} prompts{requested} with {need}{longest_one}",
            "Use fewer prompts, shorter lengths, or a longer text",
        )
    return tuple(found)


def _round_robin(iterators: list[Iterator[Passage]]) -> Iterator[Passage]:
    """The first passage of each iterator, then the second of each, and so on: even a small set draws on many texts."""
    queue = deque(iterators)
    while queue:
        iterator = queue.popleft()
        for passage in iterator:
            yield passage
            queue.append(iterator)
            break


def _windows(text: str, tokenizers: Sequence[Tokenizer], total: int) -> Iterator[Passage]:
    """Passages of a long text that start at a paragraph, end at one, do not overlap, and are `total` tokens long."""
    starts = []
    offset = 0
    for line in text.split("\n"):
        if line.strip() and not line.lstrip().startswith("= "):
            starts.append(offset)
        offset += len(line) + 1
    free = 0
    for start in starts:
        if start < free:
            continue
        stop = max((_stop(text, start, t, total) for t in tokenizers), default=len(text) + 1)
        if stop > len(text):
            return
        end = text.find("\n", stop)
        free = len(text) if end < 0 else end
        yield Passage(text[start:free])


def _stop(text: str, start: int, tokenizer: Tokenizer, total: int) -> int:
    """Where the first `total` tokens after `start` end; beyond the text when it has fewer."""
    size = total * _CHARACTERS_A_TOKEN
    while True:
        ids = tokenizer.encode(text[start : start + size])
        if len(ids) >= total:
            return start + len(tokenizer.decode(ids[:total]))
        if start + size >= len(text):
            return len(text) + 1
        size *= 2


# ---------------------------------------------------------------- cutting to exact lengths

Cut = tuple[tuple[int, ...], tuple[int, ...] | None]


def _cut(
    passage: Passage, tokenizer: Tokenizer, prompt_tokens: int, new_tokens: int, references: bool, chat: bool
) -> tuple[Cut | None, int]:
    """(P prompt ids, G reference ids) of a passage, None where it is too short; and how many tokens it has.

    The prompt is the passage's first P tokens and the reference the next G. Where the source gives the reference
    separately, the prompt is the last P tokens, so that the reference follows directly.
    """
    following: tuple[int, ...] | None
    if passage.ids is not None:
        ids, following = passage.ids, passage.reference_ids
        bos_ids: tuple[int, ...] = ()
    else:
        bos_ids, ids = tuple(tokenizer.encode("")), tuple(tokenizer.encode(passage.text))
        following = None if passage.reference is None else continuation(tokenizer.encode, passage.reference)
    length = len(ids) + (0 if following is None else len(following))
    if chat:
        prompt, used = _in_template(ids, tokenizer, prompt_tokens)
        if prompt is None:
            return None, length
    elif len(ids) < prompt_tokens:
        return None, length
    elif following is None:
        prompt, used = ids[:prompt_tokens], prompt_tokens
    else:
        prompt, used = bos_ids + ids[len(ids) - prompt_tokens + len(bos_ids) :], len(ids)
    rest = ids[used:] if following is None else following
    if len(rest) < new_tokens:
        return (None if references else (prompt, None)), length
    return (prompt, rest[:new_tokens]), length


def _in_template(ids: tuple[int, ...], tokenizer: Tokenizer, prompt_tokens: int) -> tuple[tuple[int, ...] | None, int]:
    """Exactly P ids of the chat template around the passage's first tokens, and how many of those it contains."""
    if tokenizer.chat is None:
        raise BenchError("chat: true needs a tokenizer with a chat template", "Use an Instruct model, or chat: false")
    space = prompt_tokens - len(tokenizer.chat(""))
    # Cutting a text and encoding it again can merge or split a token at the end, so neighbours are tried as well.
    for used in (space + delta for delta in (0, 1, -1, 2, -2, 3, -3)):
        if 0 < used <= len(ids):
            prompt = tuple(tokenizer.chat(tokenizer.decode(ids[:used])))
            if len(prompt) == prompt_tokens:
                return prompt, used
    return None, 0


def take(
    settings: PromptSettings,
    tokenizer: Tokenizer,
    prompt_tokens: int,
    new_tokens: int,
    also: Sequence[Tokenizer] = (),
    references: bool = True,
) -> PromptBatch:
    """All prompts of one model: exactly P ids a prompt, exactly G ids a reference.

    `prompt_hash` identifies the passages: equal for all models.

    Args:
        also: tokenizers of the experiment's other models, for which the passages must be long enough too.
        references: False keeps prompts without a known continuation as well.

    Raises:
        BenchError: see `choose`.
    """
    chosen = choose(settings, [tokenizer, *also], prompt_tokens, new_tokens, references)
    prompts = []
    for index, passage in enumerate(chosen):
        cut, _ = _cut(passage, tokenizer, prompt_tokens, new_tokens, references, settings.chat)
        assert cut is not None
        prompts.append(_prompt(index, *cut, tokenizer))
    identity = [[p.text, p.reference, p.ids, p.reference_ids] for p in chosen]
    return PromptBatch(tuple(prompts), stable_hash(identity))


def _prompt(index: int, ids: tuple[int, ...], reference_ids: tuple[int, ...] | None, tokenizer: Tokenizer) -> Prompt:
    text = tokenizer.decode(ids)
    if reference_ids is None:
        return Prompt(index, ids, text)
    both = ids + reference_ids
    first, last = whole_characters(both, len(ids), len(both), tokenizer.decode)
    before, whole = tokenizer.decode(both[:first]), tokenizer.decode(both[:last])
    reference = whole[len(before) :] if whole.startswith(before) else tokenizer.decode(reference_ids)
    # A likelihood counts the tokens that spell the reference text: tokens with partial characters are excluded.
    scored = (first - len(ids), last - len(ids))
    return Prompt(index, ids, text, reference_ids, reference, None if scored == (0, len(reference_ids)) else scored)
