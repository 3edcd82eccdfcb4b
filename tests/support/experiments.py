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


def embedded_pair(
    steps: str = "[4, 16]",
    batch_size: str = "1",
    count: int = 6,
    protocol: str = "{}",
    metrics: str = "[likelihood]",
    engine: str = "hf",
) -> str:
    """An experiment of the embedded models on a small grid."""
    return f"""
name: small
models:
  ar: {{family: llama, source: "embedded:ar"}}
  llada: {{family: llada, source: "embedded:llada"}}
grid:
  lengths: {{prompt_tokens: 24, new_tokens: 16}}
  batch_size: {batch_size}
  precision: float32
  attention: auto
  engine: {engine}
  samplers:
    autoregressive: {{}}
    masked_diffusion: {{steps: {steps}}}
prompts: {{source: tiny, count: {count}}}
protocol: {protocol}
metrics: {metrics}
"""


H200_RUN = Path(__file__).parents[2] / "docs/study/h200-random"
