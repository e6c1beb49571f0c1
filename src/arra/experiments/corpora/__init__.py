"""Experiments on real captioned pictures: with and without alignment, judged by other networks."""
