"""Training of the nodule injector and the eraser: ``ctsynthesis train nodule-injector|nodule-eraser --data DIR -o DIR``.

A conditional GAN on volumes of interest (paper 004, section 3.1 and appendix B; Jin et al. 2018): mean absolute error to the target, a
least-squares critic with gradient penalty on real data (Mescheder's R1, as paper 004 trains its volumes), and the spread of what is
painted, since an absolute error alone gives a smooth blob.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F

from ..modelstore import ModelCard, save_model
from ..networks.nodule_unet import NoduleCritic, NoduleUNet, NoduleUNetConfig
from ..synthesis.mask_cgan import autocast
from ..synthesis.nodule_voi import painted
from .kept import Kept, copied, follow, weights_of
from .loop import load_weights, ready, run
from .nodule_data import NoduleSampler, NoduleSampling, load_lungs


@dataclass(frozen=True)
class NoduleRecipe:
    erase: bool = False
    network: NoduleUNetConfig = field(default_factory=NoduleUNetConfig)
    critic: tuple[int, ...] = (16, 32, 64)
    sampling: NoduleSampling = field(default_factory=NoduleSampling)
    rate: float = 5e-4
    critic_rate: float = 1e-3
    adversarial: float = 0.02
    spread: float = 0.05
    alone: int = 100  # iterations without the critic
    penalty: float = 0.05  # R1's γ; texture spans a tenth of a unit, so a critic that sees it has to be steep
    penalty_every: int = 8
    average: float = 0.99
    iterations: int = 1500
    seed: int = 0


class NoduleGAN(Kept):
    """Network, critic and their optimizers; ``step`` is one update of each. Knows no loop."""

    KEPT = ("network", "averaged", "critic", "optimizer_g", "optimizer_d", "iteration")

    def __init__(self, recipe: NoduleRecipe, device: str = "cpu"):
        self.recipe, self.device, self.iteration = recipe, device, 0
        self.network = NoduleUNet(recipe.network).to(device, memory_format=torch.channels_last_3d)
        self.critic = NoduleCritic(recipe.critic).to(device, memory_format=torch.channels_last_3d)
        self.averaged = copied(self.network)
        self.optimizer_g = torch.optim.Adam(self.network.parameters(), recipe.rate, (0.5, 0.99))
        self.optimizer_d = torch.optim.Adam(self.critic.parameters(), recipe.critic_rate, (0.5, 0.99))

    def step(self, batch) -> dict[str, float]:
        x, target = (batch[name].to(self.device) for name in ("inputs", "target"))
        losses: dict[str, torch.Tensor] = {}
        for optimizer, rate in ((self.optimizer_g, self.recipe.rate), (self.optimizer_d, self.recipe.critic_rate)):
            for group in optimizer.param_groups:  # falls to a fifth by the recipe's end
                group["lr"] = rate * max(0.2, 1 - 0.8 * self.iteration / self.recipe.iterations)
        with autocast(self.device):
            answer = self.network(x.contiguous(memory_format=torch.channels_last_3d))
        plain, fake = painted(x, *(one.float() for one in answer))
        judged = self.iteration >= self.recipe.alone
        if judged:
            self.backward_critic(x, target, fake.detach(), losses)
        self.backward_network(x, target, plain, fake, losses, judged)
        follow(self.averaged, self.network, self.recipe.average, self.iteration)
        self.iteration += 1
        return {name: float(value.detach()) for name, value in losses.items()}

    def backward_critic(self, x, target, fake, losses):
        self.critic.requires_grad_(True)
        self.optimizer_d.zero_grad(set_to_none=True)
        given = x[:, 2], x[:, 1]
        with autocast(x.device):
            on_real, on_fake = self.critic(target, *given).float(), self.critic(fake, *given).float()
        patches = self._patches(x)
        loss = (patches * ((1 - on_real).square() + on_fake.square())).sum() / patches.sum()
        if self.iteration % self.recipe.penalty_every == 0:
            real = target.clone().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.critic(real, *given).mul(patches).sum(), real, create_graph=True)
            penalty = slope.square().sum((1, 2, 3)).mean() / patches.sum().clamp(min=1)
            loss = loss + 0.5 * self.recipe.penalty * self.recipe.penalty_every * penalty
        loss.backward()
        self.optimizer_d.step()
        with torch.no_grad():
            losses["critic"] = 0.5 * (patches * ((1 - on_real).square() + on_fake.square())).sum() / patches.sum()

    def backward_network(self, x, target, plain, fake, losses, judged):
        self.optimizer_g.zero_grad(set_to_none=True)
        where, total = x[:, 1], x[:, 1].sum().clamp(min=1)
        even = _even(plain - target)  # what is finer than 1.2 mm is grain, and cannot match
        losses["error"] = (where * even.abs()).sum() / total
        with torch.no_grad():
            losses["simple"] = (where * _even(x[:, 3] - target).abs()).sum() / total  # what simple means alone would give
        losses["spread"] = spread_error(fake, target, where)
        loss = losses["error"] + self.recipe.spread * losses["spread"]
        if judged:
            self.critic.requires_grad_(False)
            with autocast(x.device):
                on_fake = self.critic(fake, x[:, 2], x[:, 1]).float()
            patches = self._patches(x)
            losses["adversarial"] = (patches * (1 - on_fake).square()).sum() / patches.sum()
            loss = loss + self.recipe.adversarial * losses["adversarial"]
        else:
            losses["adversarial"] = losses["critic"] = torch.full((), 0.25)  # that of a critic that knows nothing
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer_g.step()

    def _patches(self, x):
        """Which of the critic's decisions count (B, d, h, w): those on what was painted."""
        return (F.max_pool3d(x[:, 1:2], 8)[:, 0] > 0.3).float().clamp(min=1e-6)


def spread_error(image, target, where) -> torch.Tensor:
    """Squared difference of the logarithms of both images' spread where they are painted (B, D, H, W): of all of it, and of its grain."""
    errors = []
    for a, b in ((image, target), (image - _even(image), target - _even(target))):
        spreads = []
        for part in (a, b):
            weight = (where > 0.5).float()
            count = weight.sum((1, 2, 3)).clamp(min=8)
            mean = (weight * part).sum((1, 2, 3), keepdim=True) / count[:, None, None, None]
            spreads.append(((weight * (part - mean).square()).sum((1, 2, 3)) / count + 1e-4).log())
        errors.append(0.25 * (spreads[0] - spreads[1]).square().mean())
    return errors[0] + errors[1]


def _even(image):
    """Smoothed by a Gaussian of 1.2 voxels."""
    at = torch.arange(-3, 4, dtype=image.dtype, device=image.device)
    taps = torch.exp(-0.5 * (at / 1.2) ** 2)
    taps = taps / taps.sum()
    image = F.pad(image[:, None], (3,) * 6, mode="replicate")
    for axis in range(3):
        image = F.conv3d(image, taps.reshape([1, 1, *(7 if a == axis else 1 for a in range(3))]))
    return image[:, 0]


def train(data, out, *, erase: bool, recipe: NoduleRecipe | None = None, iterations=None, minutes=None, resume=False, device="auto",
          leave_out: tuple[str, ...] = (), threads: int | None = None, on_log=print) -> int:  # fmt: skip
    """Train on the lungs of every case under ``data`` except those named in ``leave_out``; returns the iterations made."""
    recipe = recipe or NoduleRecipe()
    network = replace(recipe.network, see_through=erase)
    recipe = replace(recipe, erase=erase, network=network, iterations=iterations or recipe.iterations)
    if threads:
        torch.set_num_threads(threads)
    device = ready(out, resume, device)
    torch.manual_seed(recipe.seed)
    lungs = load_lungs(data, Path(out) / "cases", leave_out=leave_out)
    model = NoduleGAN(recipe, device)
    sampler = NoduleSampler(lungs, recipe.sampling, erase=erase, seed=recipe.seed)
    done = run(model, sampler, out, iterations=recipe.iterations, minutes=minutes, resume=resume, log_every=20,
               checkpoint_every=100, on_log=on_log)  # fmt: skip
    name = "nodule_eraser" if erase else "nodule_injector"
    export(out, out, recipe=recipe, title="Trained on own data", version=str(done), description=f"{done} iterations, {len(lungs)} cases.",
           training_data=[lung.case.name for lung in lungs],
           command=f"ctsynthesis train {name.replace('_', '-')} --data {data} --iterations {done}")  # fmt: skip
    return done


def export(out, folder, *, recipe: NoduleRecipe, **card) -> ModelCard:
    """Write the averaged network of the latest checkpoint in ``out`` as a model file with its card into ``folder``."""
    weights = weights_of(load_weights(out), "averaged")
    name = "nodule_eraser" if recipe.erase else "nodule_injector"
    return save_model(folder, weights, name=name, kind=name, network=asdict(recipe.network), hu_map={}, **card)
