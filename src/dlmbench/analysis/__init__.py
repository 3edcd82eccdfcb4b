"""Analysis of a run: pure functions from its records to medians, parity, break-even, winners and an answer."""
