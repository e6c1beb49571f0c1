"""Decoding: from a step function to codes."""
