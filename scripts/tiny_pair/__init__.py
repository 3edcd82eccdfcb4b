"""The parts of `train_tiny_pair.py`: corpus on disk, transformer, optimizer, training loop, likelihoods, export."""
