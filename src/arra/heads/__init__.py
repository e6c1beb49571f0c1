"""Laws of the next unit."""
