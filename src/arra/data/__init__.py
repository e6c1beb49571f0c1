"""Captioned pictures, from folders and from a seed, and the prepared store of codes and features."""
