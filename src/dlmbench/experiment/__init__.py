"""The experiment file: from YAML and overrides to an Experiment, its plan and its shards."""
