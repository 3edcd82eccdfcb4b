"""Models: config.json to Architecture, tokenizer, checkpoints, hub; families and engines are plug-ins."""
