"""Engines: what runs a model, causal or bidirectional, behind the LanguageModel protocol; one file or package each.

An engine has `load(spec, folder, *, precision, attention, device, seed)`, which returns a `LanguageModel`. Optional:
`CONFIDENCE_DTYPE`, the precision in which diffusion confidences are computed unless a knob sets it (None or absent: as
the published code of the sampler).
"""
