"""Frozen representation encoders, whose features hidden states are aligned with."""
