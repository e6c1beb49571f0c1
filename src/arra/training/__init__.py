"""The training loop: exact resume, averaging, trackers."""
