"""Models: config.json to Architecture, tokenizer, checkpoints, hub; families and engines are plug-ins."""

from dlmbench.models.loading import FoundModel, LoadedModel, find, load

__all__ = ["FoundModel", "LoadedModel", "find", "load"]
