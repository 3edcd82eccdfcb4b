"""Samplers: how a model turns a prompt into exactly G new tokens; one file each.

A sampler has `PARADIGM`, `KNOBS` (a dataclass of its grid axes), `check(knobs, new_tokens)`, why these knobs cannot run
or None, and `generate(...)`. Optional: `PARTS` (knobs that choose a plug-in, with its kind), `resolve(...)`, which
settles knobs left open, and `log_likelihood(...)`.
"""
