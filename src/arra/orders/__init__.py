"""Layouts: in which order a signal is generated, and what sees what."""
