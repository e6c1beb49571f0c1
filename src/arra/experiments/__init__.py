"""Experiments that systems share: digit scenes with everything around a generator, and paired arms."""
