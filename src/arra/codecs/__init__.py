"""Signals to codes and back, and how each codec is trained."""
