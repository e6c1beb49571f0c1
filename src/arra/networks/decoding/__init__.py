"""Decoders of our own for Llama-like language models: the same tokens with less to do for each."""
