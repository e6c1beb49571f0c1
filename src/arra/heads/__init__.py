"""Laws of the next unit that are more than a table of probabilities."""
