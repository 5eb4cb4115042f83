"""Training of the default model: the slab U-Net against the slab critic, with least squares (paper 000, eq. 2 and 3)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import torch

from ..networks.slab_critic import SlabCritic, SlabCriticConfig
from ..networks.slab_unet import SlabUNet, SlabUNetConfig
from ..synthesis.condition import BODY
from ..synthesis.mask_cgan import autocast
from ..synthesis.noise import SEEN, add_grain
from .kept import Kept, copied, follow
from .losses import adversarial_loss, critic_loss
from .slab_losses import blurred_error, feature_error, spread_error


@dataclass(frozen=True)
class SlabGANConfig:
    generator: SlabUNetConfig = field(default_factory=SlabUNetConfig)
    critic: SlabCriticConfig = field(default_factory=SlabCriticConfig)
    generator_rate: float = 6e-4
    critic_rate: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.99)
    adversarial: float = 0.05  # weight of the least-squares term
    features: float = 0.1
    blurred: float = 20.0
    unspecified: float = 0.2  # how much a voxel counts in it where the condition says no more than "body"; the critic judges those
    spread: float = 0.1
    alone: int = 100  # iterations of the generator without the critic, which would only get in its way
    warm_up: int = 200  # iterations after them over which the critic comes to count in full
    average: float = 0.995  # of the generator's weights that ship


class SlabGAN(Kept):
    """Generator, critic and their optimizers; ``step`` is one update of each. Knows no loop."""

    KEPT = ("generator", "critic", "averaged", "optimizer_g", "optimizer_d", "iteration")

    def __init__(self, config: SlabGANConfig | None = None, device: str = "cpu"):
        self.config = config = config or SlabGANConfig()
        self.device = device
        self.generator = SlabUNet(config.generator).to(device, memory_format=torch.channels_last)
        self.critic = SlabCritic(config.critic).to(device, memory_format=torch.channels_last)
        self.averaged = copied(self.generator)
        tone = list(self.generator.tone.parameters())  # few, and all of the grain depends on them
        others = [p for name, p in self.generator.named_parameters() if not name.startswith("tone.")]
        groups = [{"params": others}, {"params": tone, "lr": 5 * config.generator_rate}]
        self.optimizer_g = torch.optim.Adam(groups, config.generator_rate, config.betas)
        self.optimizer_d = torch.optim.Adam(self.critic.parameters(), config.critic_rate, config.betas)
        self.iteration = 0

    def step(self, batch) -> dict[str, float]:
        batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        losses: dict[str, torch.Tensor] = {}
        with autocast(self.device):
            batch["plain"], batch["fake"] = self.generate(batch)
            if self.iteration >= self.config.alone:
                self.backward_critic(batch, losses)
            self.backward_generator(batch, losses)
        follow(self.averaged, self.generator, self.config.average, self.iteration)
        self.iteration += 1
        return {name: float(value.detach()) for name, value in losses.items()}

    def generate(self, batch):
        """The synthetic slab (B, D, H, W) in network units, without its grain and with it."""
        residual, amplitude = self.generator(batch["condition"], batch["noise"][:, SEEN].transpose(1, 2))
        plain = batch["expected"] + residual
        return plain, add_grain(plain, amplitude, batch["noise"])

    def backward_critic(self, batch, losses):
        self.critic.requires_grad_(True)
        self.optimizer_d.zero_grad(set_to_none=True)
        given = batch["expected"], batch["condition"]
        real = self.critic(batch["real"], *given)
        fake = self.critic(batch["fake"].detach(), *given)
        loss = sum(critic_loss(r[0].float(), f[0].float()) for r, f in zip(real, fake, strict=True)) / len(real)
        loss.backward()
        self.optimizer_d.step()
        losses["critic"] = loss
        losses["real_right"] = torch.stack([(r[0] > 0.5).float().mean() for r in real]).mean()
        losses["fake_right"] = torch.stack([(f[0] < 0.5).float().mean() for f in fake]).mean()

    def backward_generator(self, batch, losses):
        c = self.config
        self.optimizer_g.zero_grad(set_to_none=True)
        weight = 1 - (1 - c.unspecified) * batch["condition"][:, :, BODY]
        losses["blurred"] = blurred_error(batch["plain"], batch["real"], weight)  # grain cannot match, so it is not asked to
        losses["map_only"] = blurred_error(batch["expected"], batch["real"], weight)  # what each structure's HU alone would give
        losses["spread"] = spread_error(batch["fake"], batch["real"])
        loss = c.blurred * losses["blurred"] + c.spread * losses["spread"]
        trust = min(1.0, (self.iteration - c.alone) / c.warm_up)
        if trust > 0:
            loss = loss + trust * self._judged(batch, losses)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.generator.parameters(), 5.0)
        self.optimizer_g.step()

    def _judged(self, batch, losses):
        """What the critic says: equation 3's adversarial term, and its features matched."""
        self.critic.requires_grad_(False)
        given = batch["expected"], batch["condition"]
        with torch.no_grad():
            real = self.critic(batch["real"], *given)
        fake = self.critic(batch["fake"], *given)
        losses["adversarial"] = sum(adversarial_loss(f[0].float()) for f in fake) / len(fake)
        losses["features"] = sum(feature_error(f[1], r[1]) for f, r in zip(fake, real, strict=True)) / len(fake)
        return self.config.adversarial * losses["adversarial"] + self.config.features * losses["features"]

    def describe(self) -> dict:
        return asdict(self.config)
