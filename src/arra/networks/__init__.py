"""Blocks, caches and the wrapper of Hugging Face causal language models."""
