"""A bench of minutes: scikit-learn's handwritten digits, their crops, a judge, a store in memory.

The judge is a perceptron over pixels, by another library, with another objective, architecture and
seed than any encoder that trains a model. It is trained on the training pictures only.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from arra.codecs.base import Codec
from arra.metrics.frechet import frechet_distance, normalised, sample_distance
from arra.pixels import to_unit

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
"""The captions."""
TRAINING = 1200
"""Pictures to train on; the other 597 are held out."""


@dataclass(frozen=True)
class Digits:
    """Digits of 8 x 8 pixels."""

    pictures: np.ndarray
    """(N, 8, 8, 3) uint8."""
    labels: np.ndarray
    """(N,) int64."""

    @property
    def captions(self) -> list[str]:
        """What each shows, in a word."""
        return [WORDS[label] for label in self.labels]

    def cropped(self, most: int) -> Digits:
        """Every picture moved by every number of pixels up to `most`: (2 most + 1) ** 2 as many."""
        size, span = self.pictures.shape[1], range(2 * most + 1)
        padded = np.pad(self.pictures, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
        moved = [padded[:, top : top + size, left : left + size] for top in span for left in span]
        return Digits(np.concatenate(moved), np.tile(self.labels, len(moved)))


def digits() -> tuple[Digits, Digits]:
    """Training digits and held-out ones, a fixed random split."""
    from sklearn.datasets import load_digits

    found = load_digits()
    grey = np.round(found.images * (255 / 16)).astype(np.uint8)
    pictures = np.repeat(grey[..., None], 3, axis=-1)
    order = np.random.default_rng(0).permutation(len(pictures))
    parts = order[:TRAINING], order[TRAINING:]
    train, held_out = (Digits(pictures[rows], found.target[rows]) for rows in parts)
    return train, held_out


@dataclass(frozen=True)
class Judge:
    """Says which digit a picture shows, and how far a set of pictures is from real ones."""

    weights: tuple[np.ndarray, ...]
    """Of the perceptron's layers."""
    biases: tuple[np.ndarray, ...]
    reference: np.ndarray
    """(R, 8, 8, 3) uint8 real, held-out pictures in all crops."""
    labels: np.ndarray
    """(R,) what they show."""

    name = "a perceptron over the pixels of digits"

    def features(self, pictures: np.ndarray) -> np.ndarray:
        """(N, 32) the last hidden layer."""
        x = _pixels(pictures)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = np.maximum(x @ weight + bias, 0.0)
        return x

    def classes(self, pictures: np.ndarray) -> np.ndarray:
        """(N,) the digit that each picture shows."""
        return (self.features(pictures) @ self.weights[-1] + self.biases[-1]).argmax(axis=1)

    def against(self, real: Digits) -> Judge:
        """The same with these as the reference."""
        return replace(self, reference=real.pictures, labels=real.labels)

    @cached_property
    def _real(self) -> np.ndarray:
        return self.features(self.reference)

    def distance(self, pictures: np.ndarray) -> float:
        """Fréchet distance to the reference, features standardised by the reference."""
        found = frechet_distance(self._real, self.features(pictures), encoder=self.name)
        return found.value

    def distance_by_class(self, pictures: np.ndarray, asked: np.ndarray) -> float:
        """Mean over the digits of the Fréchet distance between pictures that were to show it and
        real ones that do, features standardised by the whole reference.

        The distance of all pictures does not notice one that shows another digit than it should.
        """
        real, (drawn,) = normalised(self._real, [self.features(pictures)], "standardise")
        found = [
            sample_distance(real[self.labels == digit], drawn[asked == digit])
            for digit in np.unique(asked)
        ]
        return float(np.mean(found))


def in_turn(count: int, words: Sequence[str] = WORDS) -> list[str]:
    """So many captions, the words one after the other and again."""
    return [words[number % len(words)] for number in range(count)]


def seeds_of(count: int, seed: int) -> list[int]:
    """Seeds of so many pictures: a model's noise is the same whatever draws them."""
    return [seed * 1_000_003 + number for number in range(count)]


def judged(judge: Judge, pictures: np.ndarray) -> dict[str, float]:
    """Of pictures of the ten digits in turn: the Fréchet distance of all, the mean of those of the
    digits by themselves, and the share that is read right."""
    asked = np.arange(len(pictures)) % len(WORDS)
    right = judge.classes(pictures) == asked
    return {
        "frechet": judge.distance(pictures),
        "class frechet": judge.distance_by_class(pictures, asked),
        "accuracy": float(right.mean()),
    }


def floors(judge: Judge, known: Digits, held_out: Digits, drawn: int) -> dict[str, float]:
    """What real pictures get: the distance of `drawn` training pictures, and the share of held-out
    digits that are read rightly."""
    real = known.pictures
    some = np.random.default_rng(0).choice(len(real), min(drawn, len(real)), replace=False)
    right = judge.classes(held_out.pictures) == held_out.labels
    return {"frechet": judge.distance(real[some]), "accuracy": float(right.mean())}


def train_judge(train: Digits, held_out: Digits, crop: int, seed: int = 1_000_003) -> Judge:
    """A judge that knows the crops of `train`; its reference are those of `held_out`."""
    from sklearn.neural_network import MLPClassifier

    known = train.cropped(crop)
    network = MLPClassifier((128, 32), batch_size=128, max_iter=15, random_state=seed, tol=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the number of epochs is a choice, not a failure
        network.fit(_pixels(known.pictures), known.labels)
    real = held_out.cropped(crop)
    return Judge(tuple(network.coefs_), tuple(network.intercepts_), real.pictures, real.labels)


def _pixels(pictures: np.ndarray) -> np.ndarray:
    return pictures[..., 0].reshape(len(pictures), -1) / 127.5 - 1.0


@dataclass(frozen=True)
class _Rows:
    text_ids: Sequence[Sequence[int]]
    codes: Tensor
    features: Mapping[str, Tensor]


class MemoryStore:
    """Text ids, codes and features of some pictures: a prepared store that lies in memory."""

    def __init__(
        self,
        text_ids: Sequence[Sequence[int]],
        codes: Tensor,
        features: Mapping[str, Tensor] | None = None,
    ):
        """N lists of ids, codes (N, ...) int64, features (N, ...) by name."""
        self._texts, self._codes, self._features = text_ids, codes, features or {}

    def __len__(self) -> int:
        return len(self._texts)

    def rows(self, indices: Sequence[int], features: Sequence[str] | None = None) -> _Rows:
        """Text ids, codes and some (for None all) features of some rows."""
        chosen = torch.as_tensor(list(indices))
        names = self._features if features is None else features
        found = {name: self._features[name][chosen] for name in names}
        return _Rows([self._texts[i] for i in indices], self._codes[chosen], found)

    def text_lengths(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """(n,) how many text ids each of these rows has."""
        return np.array([len(self._texts[i]) for i in indices])


def encoded(codec: Codec, pictures: np.ndarray, batch: int = 512) -> Tensor:
    """Codes (N, ...) int64 of pictures (N, H, W, 3) uint8."""
    with torch.no_grad():
        chunks = range(0, len(pictures), batch)
        return torch.cat([codec.encode(to_unit(pictures[i : i + batch])) for i in chunks])
