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


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Share of samples on the right side of 0.5."""
    return float(np.mean((probabilities > 0.5) == (labels > 0.5)))


def auc(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Probability that a sample with a nodule scores above one without; ties count half (Mann & Whitney). NaN without both sorts."""
    yes, no = probabilities[labels > 0.5], np.sort(probabilities[labels <= 0.5])
    if not len(yes) or not len(no):
        return float("nan")
    below = (np.searchsorted(no, yes, "left") + np.searchsorted(no, yes, "right")) / 2
    return float(below.mean() / len(no))


def with_interval(figure, probabilities: np.ndarray, labels: np.ndarray, *, against: np.ndarray | None = None, seed: int = 0) -> Interval:
    """``figure`` averaged over the rows of ``probabilities`` (seeds, samples), with its interval over resampled samples.

    Samples with and without nodules are drawn separately, and all seeds keep the same samples. ``against``: other probabilities of the same
    samples, whose figure is subtracted. The interval speaks of other samples from the same persons, not of other persons.
    """
    labels = np.asarray(labels)

    def difference(rows):
        value = np.mean([figure(one[rows], labels[rows]) for one in probabilities])
        return value if against is None else value - np.mean([figure(one[rows], labels[rows]) for one in against])

    rng = np.random.default_rng(seed)
    sorts = [np.flatnonzero(labels == label) for label in (0, 1)]
    drawn = [difference(np.concatenate([rng.choice(rows, len(rows)) for rows in sorts if len(rows)])) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(difference(np.arange(len(labels)))), float(low), float(high))
