"""How a callable is measured: clocks, memory, energy, environment and the protocol that orders them.

Nothing here knows a model or a sampler; what is measured comes in as a callable and goes out as a record.
"""
