"""Commit rules: which masked positions become final after a forward; one file each.

A rule has `SCHEDULED` (whether its `steps` knob fixes the number of forwards), `KNOBS`, `confidence(chunk, knobs)`,
which reads one number per position from a `LogitsChunk`, and `decide(scores, knobs)`, which returns the positions to
commit, commit_Bb, given `BlockScores`. Optional: `check(knobs)`, why these knobs cannot run or None, and
`DRAWS_ORDER = True`, when positions are drawn at random, so that its likelihood is an estimate.
"""
