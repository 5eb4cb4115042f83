"""Equations 2 and 3 of paper 000, against values worked out by hand."""

import pytest
import torch

from CTSynthesisLib.training.losses import accuracy, adversarial_loss, critic_loss, generator_loss, mean_absolute_error

REAL = torch.tensor([[[[1.0, 0.5], [0.0, 2.0]]]])  # distances from 1: 0, 0.5, 1, 1 → squares 0, 0.25, 1, 1
FAKE = torch.tensor([[[[0.0, 0.5], [1.0, -1.0]]]])  # squares 0, 0.25, 1, 1; distances from 1: 1, 0.5, 0, 2 → squares 1, 0.25, 0, 4
GENERATED = torch.tensor([[[[0.1, 0.9]]]])
TARGET = torch.tensor([[[[0.4, 0.8]]]])


def test_critic_draws_real_to_1_and_fake_to_0():
    assert critic_loss(REAL, FAKE).item() == pytest.approx(2.25 / 4 + 2.25 / 4)
    assert critic_loss(torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)).item() == 0


def test_generator_draws_fake_to_1():
    assert adversarial_loss(FAKE).item() == pytest.approx(5.25 / 4)


def test_mean_absolute_error():
    assert mean_absolute_error(GENERATED, TARGET).item() == pytest.approx((0.3 + 0.1) / 2)


def test_lambda_weighs_the_adversarial_term():
    assert generator_loss(FAKE, GENERATED, TARGET, 0.012).item() == pytest.approx(0.012 * 5.25 / 4 + 0.2)


def test_gradients_of_least_squares():
    on_real, on_fake = (t.clone().requires_grad_() for t in (REAL, FAKE))
    critic_loss(on_real, on_fake).backward()
    assert on_real.grad.flatten().tolist() == pytest.approx([0, -0.25, -0.5, 0.5])  # -2 (1 - d) / 4
    assert on_fake.grad.flatten().tolist() == pytest.approx([0, 0.25, 0.5, -0.5])  # 2 d / 4


def test_accuracy_counts_decisions_on_the_right_side_of_one_half():
    assert accuracy(REAL, real=True).item() == 0.5  # 1 and 2; one half itself is not above
    assert accuracy(FAKE, real=False).item() == 0.75  # all but 1
