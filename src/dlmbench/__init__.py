"""Is a diffusion language model worth it, instead of an autoregressive one? A benchmark that answers with evidence."""

__version__ = "0.1.0"
