"""What of a model in training goes into its checkpoints, and the running average of its weights."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

Weights = dict[str, torch.Tensor]


class Kept:
    """A model whose ``state`` and ``load_state`` (see :class:`loop.Model`) follow from the attributes that ``KEPT`` names.

    Networks and running averages go to the weights, each under its attribute's name; optimizers and plain values to the rest.
    """

    KEPT: ClassVar[tuple[str, ...]]

    def state(self) -> tuple[Weights, dict[str, Any]]:
        weights, rest = {}, {}
        for name in self.KEPT:
            value = getattr(self, name)
            if isinstance(value, torch.nn.Module | dict):
                tensors = value if isinstance(value, dict) else value.state_dict()
                weights |= {f"{name}.{key}": tensor for key, tensor in tensors.items()}
            else:
                rest[name] = value.state_dict() if isinstance(value, torch.optim.Optimizer) else value
        return weights, rest

    def load_state(self, weights: Weights, rest: dict[str, Any]) -> None:
        for name in self.KEPT:
            value = getattr(self, name)
            if isinstance(value, dict):
                setattr(self, name, {key: tensor.to(value[key].device) for key, tensor in weights_of(weights, name).items()})
            elif isinstance(value, torch.nn.Module):
                value.load_state_dict(weights_of(weights, name))
            elif isinstance(value, torch.optim.Optimizer):
                value.load_state_dict(rest[name])
            else:
                setattr(self, name, rest[name])


def weights_of(weights: Weights, name: str) -> Weights:
    """Those of ``weights`` that belong to the attribute ``name``, under their own names."""
    return {key.removeprefix(f"{name}."): tensor for key, tensor in weights.items() if key.startswith(f"{name}.")}


def copied(network: torch.nn.Module) -> Weights:
    """The parameters of ``network`` as they are now: where a running average begins."""
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


@torch.no_grad()
def follow(averaged: Weights, network: torch.nn.Module, inertia: float, iteration: int) -> None:
    """Draw ``averaged`` after the parameters of ``network``: an exponential moving average that forgets its beginning."""
    for name, parameter in network.named_parameters():
        averaged[name].lerp_(parameter, 1 - min(inertia, (1 + iteration) / (10 + iteration)))
