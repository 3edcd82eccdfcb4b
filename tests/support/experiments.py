"""Experiment files that several tests start from."""

from pathlib import Path

GOOD = """
name: t
models:
  a: {family: llama, source: tiny, weights: random}
  d: {family: llada, source: tiny, weights: random}
grid:
  lengths: {prompt_tokens: 8, new_tokens: 8}
  batch_size: [1]
  precision: float32
  attention: auto
  samplers:
    autoregressive: {}
    masked_diffusion: {steps: [4, 8]}
prompts: {source: tiny, count: 2}
"""

H200_RUN = Path(__file__).parents[2] / "docs/study/h200-random"
