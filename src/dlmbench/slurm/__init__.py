"""A study on a cluster: SLURM is the distributed engine, this package only talks to it.

A plan is cut into shards of about equal predicted time; each is an array task with a run folder of its own below
`RUN/shards`. What the tasks have to know stands in `RUN/submission.json`, what they did stands in their records, so
that every question (what is left, how long, is it whole) is answered from the files, with or without SLURM.
"""
