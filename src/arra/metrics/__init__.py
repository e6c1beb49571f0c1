"""Measures of generated pictures; each names the encoder that it used."""
