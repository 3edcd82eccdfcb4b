"""What the measurements say: pure functions from a run's records to medians, parity, break-even and an answer."""
