"""KV caches of diffusion: which positions a forward computes, the others taking cached keys and values; one file each.

A cache has `USES_KV_CACHE`, `KNOBS` and `span(first, last, length)`, the positions that a block's later forwards
compute (its first forward computes all). Optional: `min_forwards(knobs)`, forwards that each block takes at least
(default 1).
"""
