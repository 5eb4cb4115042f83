"""The baseline of CT-SGAN's Table 1: a vanilla 3D GAN of 128³ voxels. The paper names no more, so layers and numbers are 3D-GAN's
(Wu et al. 2016) with the losses of Goodfellow et al. (2014)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F

from .. import modelstore
from ..networks.ct_sgan import GAN3DConfig, VolumeCritic, VolumeGenerator
from ..synthesis.mask_cgan import autocast, compute_dtype
from . import ct_sgan_losses, loop
from .chest_volumes import HU_RANGE, Augmentation, Volumes, load_cubes, to_hounsfield
from .ctsgan2021 import initialise
from .kept import Kept
from .strip import Strip, draw_planes, planes_of


@dataclass(frozen=True)
class GAN3D:
    network: GAN3DConfig = field(default_factory=GAN3DConfig)  # fewer filters than Wu's, whose volumes are 64³
    cube: int = 224  # voxels along each side of what CT-SGAN draws: real volumes are made smaller, generated ones enlarged
    batch: int = 2
    learning_rate_G: float = 2.5e-3 / 10  # Wu's is for batches of 100
    learning_rate_D: float = 1e-5 * 10
    betas: tuple[float, float] = (0.5, 0.999)
    accurate: float = 0.8  # Wu: D is only updated if its accuracy in the last batch was not higher
    iterations: int = 20_000
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0


class GAN3DTraining(Kept):
    """Generator, discriminator and one alternating update."""

    KEPT = ("generator", "critic", "optimizer_G", "optimizer_D", "iteration", "accuracy")

    def __init__(self, preset: GAN3D, device="cpu", precision=torch.float32):
        self.preset, self.device, self.precision, self.iteration, self.accuracy = preset, device, precision, 0, 0.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(preset.seed)
            self.generator, self.critic = VolumeGenerator(preset.network), VolumeCritic(preset.network)
            for network in (self.generator, self.critic):
                network.apply(initialise)
                network.to(device)
        self.optimizer_G = torch.optim.Adam(self.generator.parameters(), preset.learning_rate_G, preset.betas)
        self.optimizer_D = torch.optim.Adam(self.critic.parameters(), preset.learning_rate_D, preset.betas)

    def step(self, batch) -> dict[str, float]:
        real = batch["real"].to(self.device)
        z = torch.randn(len(real), self.preset.network.noise, generator=torch.Generator().manual_seed(self.iteration)).to(self.device)
        with autocast(self.device, self.precision):
            fake = self.generator(z)
            self.critic.requires_grad_(True)
            self.optimizer_D.zero_grad()
            on_real, on_fake = self.critic(real).float()[:, None], self.critic(fake.detach()).float()[:, None]
            loss_D = ct_sgan_losses.critic_loss("jensen-shannon", [on_real], [on_fake])
            if self.accuracy <= self.preset.accurate:
                loss_D.backward()
                self.optimizer_D.step()
            self.accuracy = float(((on_real > 0).float().mean() + (on_fake < 0).float().mean()) / 2)

            self.critic.requires_grad_(False)
            self.optimizer_G.zero_grad()
            loss_G = ct_sgan_losses.generator_loss("jensen-shannon", [self.critic(fake).float()[:, None]])
            loss_G.backward()
            self.optimizer_G.step()
        self.iteration += 1
        return {"loss_D": loss_D.item(), "loss_G": loss_G.item(), "accuracy": self.accuracy}

    @torch.no_grad()
    def volumes(self, seed: int) -> torch.Tensor:
        """A volume (1, 224, 224, 224) in HU, "then resizing the generated scans"."""
        self.generator.eval()
        z = torch.randn(1, self.preset.network.noise, generator=torch.Generator().manual_seed(seed)).to(self.device)
        volume = self.generator(z)
        self.generator.train()
        return to_hounsfield(F.interpolate(volume.float(), size=(self.preset.cube,) * 3, mode="trilinear", align_corners=False))[:, 0].cpu()


def train(
    data: str | Path, out: str | Path, *, leave_out: tuple[str, ...] = (), iterations: int | None = None, minutes: float | None = None,
    resume: bool = False, device: str = "auto", preset: GAN3D = GAN3D(), checkpoint_every: int = 100, on_log=None,
) -> Path:  # fmt: skip
    """Train on the whole chests under ``data``; ``out`` gets log, checkpoint, ``gan3d.safetensors``, its card and ``strip.png``."""
    out = Path(out)
    device = loop.ready(out, resume, device, mps=True)
    cubes = load_cubes(data, out / "cases", preset.cube, leave_out=leave_out)
    model = GAN3DTraining(preset, device, compute_dtype(device))
    last = preset.iterations if iterations is None and minutes is None else iterations
    batches = Volumes(cubes, preset.augmentation, size=preset.network.size, batch=preset.batch, seed=preset.seed)
    strip = Strip(lambda: {"planes": planes_of(model.volumes(preset.seed)[0])}, out / "samples", last)
    done = strip.run(model, batches, out, iterations=last, minutes=minutes, resume=resume, checkpoint_every=checkpoint_every, on_log=on_log)
    spacing = [sum(cube.spacing[a] for cube in cubes) / len(cubes) for a in range(3)]
    modelstore.save_model(
        out, model.generator.state_dict(), name="gan3d", title="3D GAN (baseline)", kind="gan3d", version=f"{done} iterations",
        description="The vanilla 3D GAN that CT-SGAN is compared with: 128³, enlarged to 224³.",
        network={**asdict(preset.network), "spacing": spacing, "cube": preset.cube}, hu_map={"range": list(HU_RANGE)},
        training_data=[f"{cube.name}: the whole chest" for cube in cubes], limits=["A baseline; it draws no usable CT."],
    )  # fmt: skip
    draw_planes(strip, out / "strip.png")
    return out
