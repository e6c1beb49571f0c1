"""What features know: the accuracy of a linear classifier on top of them."""

from __future__ import annotations

from torch import Tensor

from arra.errors import InputError


def linear_probe(
    features_train: Tensor,
    labels_train: Tensor,
    features_test: Tensor,
    labels_test: Tensor,
    penalty: float = 1.0,
) -> float:
    """Share of test labels (N,) that logistic regression reads off features (N, D).

    Features are standardised by the training features; `penalty` is the inverse of scikit-learn's
    C. Deterministic. Logistic, not least squares: the latter hides the middle one of ordered classes.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    for name, features, labels in (
        ("train", features_train, labels_train),
        ("test", features_test, labels_test),
    ):
        if features.ndim != 2 or len(features) != len(labels) or not len(labels):
            raise InputError(
                f"features_{name}: shape {tuple(features.shape)} with {len(labels)} labels, "
                "expected (N, D) with N labels, N above 0"
            )
    if labels_train.unique().numel() < 2:
        raise InputError("labels_train: all labels are equal, there is nothing to tell apart")
    regression = LogisticRegression(C=1 / penalty, tol=1e-3, max_iter=1000)
    probe = make_pipeline(StandardScaler(), regression)
    probe.fit(features_train.float().cpu().numpy(), labels_train.cpu().numpy())
    return float(probe.score(features_test.float().cpu().numpy(), labels_test.cpu().numpy()))
