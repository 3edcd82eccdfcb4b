"""Prompt sources, one file each: where passages of text come from."""
