"""The experiment file: YAML and the command line's overrides to an Experiment, its knobs, plan and shards."""
