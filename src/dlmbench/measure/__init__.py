"""How a callable is measured: clocks, memory, energy, environment and the protocol of repetitions.

Nothing here knows a model or a sampler: a callable comes in, a record goes out.
"""
