"""How well nodules are told from none: accuracy and area under the ROC curve, with bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f}-{self.high:.3f})"


def accuracy(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None):
    """Share of samples on the right side of 0.5; with ``weights`` (n, samples), n such shares."""
    right = (probabilities > 0.5) == (labels > 0.5)
    return float(right.mean()) if weights is None else weights @ right / weights.sum(1)


def auc(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None):
    """Probability that a sample with a nodule scores above one without; ties count half (Mann & Whitney). NaN without both sorts.

    With ``weights`` (n, samples), n such probabilities.
    """
    yes, no = probabilities[labels > 0.5], probabilities[labels <= 0.5]
    w = np.ones((1, len(labels))) if weights is None else weights
    if not len(yes) or not len(no):
        return float("nan") if weights is None else np.full(len(w), np.nan)
    above = (yes[:, None] > no) + 0.5 * (yes[:, None] == no)
    of_yes, of_no = w[:, labels > 0.5], w[:, labels <= 0.5]
    area = ((of_yes @ above) * of_no).sum(1) / (of_yes.sum(1) * of_no.sum(1))
    return float(area[0]) if weights is None else area


def with_interval(figure, probabilities: np.ndarray, labels: np.ndarray, *, against: np.ndarray | None = None, seed: int = 0) -> Interval:
    """``figure`` averaged over the rows of ``probabilities`` (seeds, samples), with its interval over resampled samples.

    Samples with and without nodules are drawn separately, and all seeds keep the same samples. ``against``: other probabilities of the same
    samples, whose figure is subtracted. The interval speaks of other samples from the same persons, not of other persons.
    """
    labels = np.asarray(labels)
    rng = np.random.default_rng(seed)
    weights = np.ones((1 + RESAMPLES, len(labels)))  # how often each sample is drawn; the first row is the samples themselves
    for label in (0, 1):
        rows = np.flatnonzero(labels == label)
        if len(rows):
            weights[1:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), RESAMPLES)
    found = np.mean([figure(one, labels, weights) for one in probabilities], axis=0)
    if against is not None:
        found = found - np.mean([figure(one, labels, weights) for one in against], axis=0)
    low, high = np.quantile(found[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(found[0]), float(low), float(high))
