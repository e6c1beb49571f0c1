"""Experiments that systems share: digit scenes with all around a generator, and paired arms."""
