"""The nodule injector of Jin et al. (2018), as paper 004 uses it: ``ctsynthesis train jin2018 --data DIR -o DIR``.

Stated (Jin et al.: abstract and figure 1; paper 004: section 3.1 and appendix B): a 3D conditional GAN on volumes of interest, its input
the volume whose central sphere, which contains the nodule, has been erased; its output the volume with a nodule; a mean absolute error
that weighs the nodule's surroundings more ("multi-mask reconstruction loss"); trained on LIDC's nodules.
Paper 004 gives no numbers. Those below are quoted from memory of Jin et al. (64 voxels, a sphere of 32, λ = 100, α = 5) or, where nothing
is remembered, are those of Isola et al. (2017), on whom they build. The nodules are this project's parametric ones, and the few outlined
ones that the data hold, since LIDC's are not at hand.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..modelstore import save_model
from ..networks.jin_generator import JinConfig, JinDiscriminator, JinGenerator
from ..synthesis import nodule_voi as voi_
from ..synthesis.nodule_masked import HU_RANGE, KIND, SIDE, hounsfield, masked, unit
from . import ct_sgan_losses, loop
from .kept import Kept
from .nodule_data import Lung, NoduleSampling, load_lungs, place_in
from .strip import Strip, draw_planes, planes_of


@dataclass(frozen=True)
class Jin2018:
    network: JinConfig = field(default_factory=JinConfig)
    sampling: NoduleSampling = field(default_factory=lambda: NoduleSampling(side=SIDE, diameters=(5.0, 14.0), outlined=0.1))
    reconstruction: float = 100.0  # λ
    weight: float = 5.0  # α: of the nodule and what lies around it
    around: int = 4  # voxels
    rate: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    batch: int = 1
    iterations: int = 500
    seed: int = 0


def reconstruction_error(generated: torch.Tensor, target: torch.Tensor, near: torch.Tensor, weight: float) -> torch.Tensor:
    """Mean absolute error in which voxels ``near`` the nodule (bool) count ``weight`` times."""
    return ((1 + (weight - 1) * near.float()) * (generated - target).abs()).mean()


class Jin2018Training(Kept):
    """Generator, discriminator and one alternating update."""

    KEPT = ("networks", "optimizer_G", "optimizer_D")

    def __init__(self, preset: Jin2018, device: str = "cpu"):
        self.preset, self.device = preset, device
        torch.manual_seed(preset.seed)
        self.networks = torch.nn.ModuleDict({"generator": JinGenerator(preset.network), "discriminator": JinDiscriminator(preset.network)})
        self.networks.apply(initialise).to(device)
        self.generator, self.discriminator = self.networks["generator"], self.networks["discriminator"]
        self.optimizer_G = torch.optim.Adam(self.generator.parameters(), preset.rate, preset.betas)
        self.optimizer_D = torch.optim.Adam(self.discriminator.parameters(), preset.rate, preset.betas)

    def step(self, batch) -> dict[str, float]:
        target, near = (batch[name].to(self.device) for name in ("target", "near"))
        seen = masked(target)
        fake = self.generator(seen)
        self.discriminator.requires_grad_(True)
        self.optimizer_D.zero_grad()
        on_real, on_fake = (self.discriminator(seen, image).flatten(1).mean(1, keepdim=True) for image in (target, fake.detach()))
        loss_D = ct_sgan_losses.critic_loss("jensen-shannon", [on_real], [on_fake])
        loss_D.backward()
        self.optimizer_D.step()
        self.discriminator.requires_grad_(False)
        self.optimizer_G.zero_grad()
        error = reconstruction_error(fake, target, near, self.preset.weight)
        adversarial = F.softplus(-self.discriminator(seen, fake)).mean()
        (adversarial + self.preset.reconstruction * error).backward()
        self.optimizer_G.step()
        return {"loss_D": loss_D.item(), "adversarial": adversarial.item(), "reconstruction": error.item()}

    @torch.no_grad()
    def drawn(self, target: torch.Tensor) -> torch.Tensor:
        """The volume of interest (D, H, W) in HU that comes of ``target`` (1, 1, D, H, W) with its centre masked out."""
        self.generator.eval()
        result = hounsfield(self.generator(masked(target.to(self.device))))[0, 0].float().cpu()
        self.generator.train()
        return result


def initialise(module: torch.nn.Module):
    """Isola et al.: normal with a standard deviation of 0.02."""
    if isinstance(module, torch.nn.Conv3d | torch.nn.ConvTranspose3d):
        torch.nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, torch.nn.BatchNorm3d):
        torch.nn.init.normal_(module.weight, 1.0, 0.02)


class Nodules:
    """``sampler(n)`` is batch n, a function of n alone: volumes with a nodule in their middle (B, 1, D, H, W) in [-1, 1], and what is near
    it (bool)."""

    def __init__(self, lungs: list[Lung], preset: Jin2018):
        self.lungs, self.preset = lungs, preset
        self.showing = [lung for lung in lungs if lung.outlined]

    def __call__(self, n: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.preset.seed, n))
        pairs = [self._sample(rng) for _ in range(self.preset.batch)]
        target, near = (np.stack(parts)[:, None] for parts in zip(*pairs, strict=True))
        return {"target": unit(target), "near": torch.from_numpy(near)}

    def _sample(self, rng):
        sampling = self.preset.sampling
        if self.showing and rng.random() < sampling.outlined:
            lung = self.showing[rng.integers(len(self.showing))]
            outline = lung.outlined[rng.integers(len(lung.outlined))]
            voi = voi_.voi_at(lung.case.hu, lung.case.spacing, np.argwhere(outline).mean(0), sampling.side)
            hu, mask = voi.hu, voi_.cut(outline, voi.start, voi.hu.shape)
        else:
            lung = self.lungs[rng.integers(len(self.lungs))]
            voi = voi_.voi_at(lung.case.hu, lung.case.spacing, lung.places[rng.integers(len(lung.places))], sampling.side)
            labels = voi_.cut(lung.case.values, voi.start, voi.hu.shape)
            rendered, _, _, _, hu = place_in(voi, labels, sampling, lung.noise, rng)
            mask = rendered.mask
        near = voi_.spread(mask, voi.native.spacing, 2.0 * self.preset.around) > 0.5
        return voi.to_grid(hu), voi.to_grid(near) > 0.5


def train(data, out, *, leave_out: tuple[str, ...] = (), preset: Jin2018 | None = None, iterations=None, minutes=None, resume=False,
          device="auto", on_log=None) -> int:  # fmt: skip
    """Train on the lungs of every case under ``data`` except those named in ``leave_out``; returns the iterations made.

    ``out`` gets log, checkpoints, ``strip.png`` (one volume of interest as it is drawn at several iterations; it shows a real scan's
    surroundings), and ``jin2018_injector.safetensors`` with its card, which ``ctsynthesis nodule inject --model`` takes.
    """
    preset, out = preset or Jin2018(), Path(out)
    device = loop.ready(out, resume, device)
    lungs = load_lungs(data, out / "cases", leave_out=leave_out)
    model, sampler = Jin2018Training(preset, device), Nodules(lungs, preset)
    last = preset.iterations if iterations is None and minutes is None else iterations
    shown = sampler(10**6)["target"][:1]
    strip = Strip(lambda: {"planes": planes_of(model.drawn(shown))}, out / "samples", last)
    done = strip.run(model, sampler, out, iterations=last, minutes=minutes, resume=resume, checkpoint_every=100, on_log=on_log)
    draw_planes(strip, out / "strip.png")
    save_model(out, model.generator.state_dict(), name=KIND, kind=KIND, title="Nodule injector of Jin et al. (2018)", version=str(done),
               description=f"{done} iterations, {len(lungs)} cases.", network=asdict(preset.network), hu_map={"range": list(HU_RANGE)},
               training_data=[lung.case.name for lung in lungs], command=f"ctsynthesis train jin2018 --data {data} --iterations {done}",
               limits=["Size and kind of the nodule are the network's; only its place can be chosen."])  # fmt: skip
    return done
