"""Small language models of vectors that say something, and stores for them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

CAPTIONS = ("a red 3", "a green 7 left of a blue 5", "a red 7", "a blue 3")


def spoilt(generator, seed=1, size=0.3):
    """The generator with noise for zeros and larger weights, in evaluation mode."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=random))
    return generator.eval()


class SomeStore:
    """Rows of captions with random vectors."""

    def __init__(self, generator, captions=CAPTIONS, questions=()):
        """`questions`: of each row pairs of a question and its answer."""
        self.texts = [generator.caption_ids(c) for c in captions]
        self.questions = [
            [tuple(generator.caption_ids(text) for text in pair) for pair in row]
            for row in questions
        ]
        shape = (len(captions), *generator.codes_shape)
        self.codes = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.texts)

    def text_lengths(self, indices):
        return np.array([len(self.texts[i]) for i in indices])

    def rows(self, indices, features=None):
        return SimpleNamespace(
            text_ids=[self.texts[i] for i in indices],
            codes=self.codes[list(indices)],
            questions=[self.questions[i] for i in indices] if self.questions else [],
            features={"row": torch.tensor(list(indices))[:, None]},
        )
