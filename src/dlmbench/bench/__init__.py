"""A benchmark run: the speed pass, the quality pass, and the worker processes that hold the models."""
