"""Commit rules: which masked positions become final after a forward; one file each."""
