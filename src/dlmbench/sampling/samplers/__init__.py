"""Samplers: how a model turns a prompt into exactly G new tokens; one file each.

A sampler is a module with `PARADIGM`, a `Knobs` dataclass (its grid axes), `check(knobs, new_tokens)` and
`generate(...)`. A masked-diffusion sampler owns the loop over blocks and steps; the decision which positions become
final is a file in `commit/`, which positions are computed anew a file in `cache/`.
"""
