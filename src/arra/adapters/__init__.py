"""Parameter-efficient training of a pretrained language model."""
