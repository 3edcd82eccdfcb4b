"""A run on a SLURM cluster: split into shards, queued as a job array, merged into one run folder.

Shards take about equal predicted time. Each is an array task with its own run folder below `RUN/shards`. The jobs read
`RUN/submission.json` and write ordinary run records, so progress, time left and completeness are computed from files,
with or without SLURM.
"""
