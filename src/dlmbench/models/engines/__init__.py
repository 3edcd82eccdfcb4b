"""Engines: what runs a family, causal or bidirectional, behind the LanguageModel protocol."""
