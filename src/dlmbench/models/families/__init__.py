"""Model families: config.json to Architecture, tensor names and special ids; one file each, no torch."""
