"""Engines: what runs a model, causal or bidirectional, behind the LanguageModel protocol; one file or package each.

An engine has `load(spec, folder, *, precision, attention, device, seed)`, which returns a `LanguageModel` and raises
BenchError where `models.checkpoint` does: see `models.loading.FoundModel`, which calls it. Optional:
`CONFIDENCE_DTYPE`, the precision in which diffusion confidences are computed unless a knob sets it (None or absent: as
the published code of the sampler).
"""
