"""Accuracy, the area under the curve and their intervals, against what they are by definition."""

import numpy as np
import pytest

from CTSynthesisLib.evaluation.detection import accuracy, auc, with_interval

RNG = np.random.default_rng(3)


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    labels = RNG.integers(0, 2, 60)
    scores = np.round(RNG.random(60) + 0.3 * labels, 1)  # with ties
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[labels == 1] for b in scores[labels == 0]]
    assert auc(scores, labels) == pytest.approx(np.mean(pairs))
    assert auc(np.array([0.9, 0.8, 0.1]), np.array([1, 1, 0])) == 1 and np.isnan(auc(scores, np.ones(60)))


def test_the_interval_holds_what_it_should_as_often_as_it_should():
    """Of many experiments with a true accuracy of 0.7, nearly all have an interval around it, and its width is the binomial one."""
    inside, widths = 0, []
    labels = np.repeat([0, 1], 100)
    for n in range(40):
        right = np.random.default_rng(n).random(200) < 0.7
        found = with_interval(accuracy, np.where(right == (labels == 1), 0.9, 0.1)[None], labels, seed=n)
        inside += found.low <= 0.7 <= found.high
        widths.append(found.high - found.low)
    assert inside >= 35 and np.mean(widths) == pytest.approx(2 * 1.96 * np.sqrt(0.21 / 200), rel=0.1)


def test_a_difference_is_taken_on_the_same_samples():
    labels = np.repeat([0, 1], 50)
    better, worse = np.where(labels == 1, 0.9, 0.1)[None], np.full((1, 100), 0.9)
    assert with_interval(accuracy, better, labels, against=better) == with_interval(accuracy, worse, labels, against=worse)
    gain = with_interval(accuracy, better, labels, against=worse)
    assert (gain.value, gain.low, gain.high) == (0.5, 0.5, 0.5)
