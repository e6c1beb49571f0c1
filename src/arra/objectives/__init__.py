"""Losses over the named outputs of a generator."""
