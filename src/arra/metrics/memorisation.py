"""Does the generator copy its training pictures?

No distance proves that it does not; what can be shown is that its pictures are no nearer to the
training set than held-out real pictures are. Look at the closest pairs, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from arra.errors import InputError
from arra.metrics.measured import Interval, Measured
from arra.metrics.neighbours import nearest


@dataclass(frozen=True)
class ClosePair:
    """A generated picture and the training picture nearest to it."""

    generated: int
    training: int
    distance: float


@dataclass(frozen=True)
class Memorisation:
    """Nearness to the training set in one space."""

    share: Measured
    """Share of generated pictures nearer to training than the 1st percentile of held-out real ones.
    A generator that does not memorise has about 0.01."""
    threshold: float
    """That percentile."""
    closest: tuple[ClosePair, ...]
    """The five closest pairs, closest first."""
    generated: np.ndarray
    """(N,) distance of every generated picture to training."""
    heldout: np.ndarray
    """(M,) the same for held-out real pictures."""


def _vectors(values: np.ndarray, name: str) -> np.ndarray:
    x = np.asarray(values)
    if x.dtype == np.uint8:
        x = x.astype(np.float64) / 255.0
    x = x.reshape(len(x), -1)
    if len(x) < 1 or not np.isfinite(x).all():
        raise InputError(f"{name}: expected at least one row, all values finite")
    return x


def memorisation(
    generated: np.ndarray,
    training: np.ndarray,
    heldout: np.ndarray,
    *,
    encoder: str,
    percentile: float = 1.0,
    pairs: int = 5,
) -> Memorisation:
    """Distances to the nearest training row, against those of held-out real rows.

    Give pictures (n, H, W, 3) uint8 with encoder "none" for pixels (as root mean square difference
    of values in [0, 1]), or features (n, d) with the name of their encoder; do both. `heldout` must
    share no picture with `training`. The interval is Wilson's; it leaves out that the threshold is
    itself estimated, so have several hundred held-out pictures.
    """
    g, t, h = (
        _vectors(x, name)
        for x, name in ((generated, "generated"), (training, "training"), (heldout, "heldout"))
    )
    if not g.shape[1] == t.shape[1] == h.shape[1]:
        raise InputError("memorisation: generated, training and held-out rows differ in size")
    scale = g.shape[1] ** 0.5
    distance, index = nearest(g, t)
    reference, _ = nearest(h, t)
    distance, reference = distance / scale, reference / scale
    threshold = float(np.percentile(reference, percentile))
    close = int((distance < threshold).sum())
    # A held-out copy makes the threshold 0; exact copies must still be counted as close.
    close = max(close, int((distance == 0).sum()))
    from scipy import stats

    bounds = stats.binomtest(close, len(g)).proportion_ci(0.95, method="wilson")
    value = close / len(g)
    interval = Interval(value, float(bounds.low), float(bounds.high), 0.95, "Wilson")
    details: dict[str, float | int | str] = {
        "n_training": len(t),
        "n_heldout": len(h),
        "expected": percentile / 100,
        "exact_copies": int((distance == 0).sum()),
    }
    share = Measured("share nearer than held-out", value, len(g), encoder, interval, details)
    order = np.argsort(distance, kind="stable")[:pairs]
    closest = tuple(ClosePair(int(i), int(index[i]), float(distance[i])) for i in order)
    return Memorisation(share, threshold, closest, distance, reference)
