"""Order, network and head together: what can be trained and sampled."""
