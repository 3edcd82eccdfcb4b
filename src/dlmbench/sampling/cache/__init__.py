"""Caches: which positions a forward computes anew, and which keys and values are kept; one file each."""
