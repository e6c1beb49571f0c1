"""Captioned pictures, from folders and from a seed, and the prepared store made of them."""
