"""CT-SGAN (Pesaranghader et al. 2021) as published: R_v, G_slice, D_slice and D_slab. Numbers, one training step, one recipe."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from .. import modelstore
from ..networks.ct_sgan import CTSGAN, CTSGANConfig, SlabCritic, SliceCritic, pile, position_of
from ..synthesis.mask_cgan import autocast, compute_dtype
from . import ct_sgan_losses, loop
from .chest_volumes import HU_RANGE, Augmentation, Slabs, load_cubes, to_hounsfield
from .kept import Kept
from .strip import Strip, draw_planes, planes_of


@dataclass(frozen=True)
class CTSGAN2021:
    """The numbers of section 2. Those that the paper does not give are marked."""

    network: CTSGANConfig = field(default_factory=CTSGANConfig)  # 224 × 224 × 3; filters not given
    slab: int = 4  # T centre slices, and N of equation 2; not given
    batch: int = 2  # volumes; not given
    loss: str = "wasserstein"  # "preferably trained with Wasserstein loss"; or jensen-shannon
    penalty: float = 10.0  # γ of Mescheder's R1; not given: his
    learning_rate: float = 2e-4  # Adam; not given: MoCoGAN's, as are the betas
    betas: tuple[float, float] = (0.5, 0.999)
    iterations: int = 100_000  # MoCoGAN's
    augmentation: Augmentation = field(default_factory=Augmentation)  # few scans, where the paper had 900
    seed: int = 0


class CTSGANTraining(Kept):
    """The four sub-networks and the alternating update of section 2.

    Parameters
    ----------
    precision : torch.dtype
        float32 as published, or bfloat16 for the convolutions where the hardware is faster with it; weights and losses stay float32.
    """

    KEPT = ("generator", "critics", "optimizer_G", "optimizer_D", "iteration")

    def __init__(self, preset: CTSGAN2021, device="cpu", precision=torch.float32):
        self.preset, self.device, self.precision, self.iteration = preset, device, precision, 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(preset.seed)
            self.generator = CTSGAN(preset.network)
            widths = preset.network.widths
            self.critics = nn.ModuleDict({"slice": SliceCritic(widths), "slab": SlabCritic(widths)})
            for network in (self.generator, self.critics):
                network.apply(initialise)
        for network in (self.generator, self.critics):
            network.to(device)
        self.optimizer_G = torch.optim.Adam(self.generator.parameters(), preset.learning_rate, preset.betas)
        self.optimizer_D = torch.optim.Adam(self.critics.parameters(), preset.learning_rate, preset.betas)

    @property
    def length(self) -> int:
        """Three-slices of a volume: 222."""
        return self.preset.network.image_size - 2

    def step(self, batch) -> dict[str, float]:
        """One update of D_slice and D_slab, then one of G_slice and R_v, on one region of the volumes."""
        self.real, first = batch["real"].to(self.device), batch["first"]
        self.position = position_of(first, self.preset.slab, self.length).to(self.device)
        random = torch.Generator().manual_seed(self.preset.seed * 1_000_003 + self.iteration)
        noise = [part.to(self.device) for part in self.generator.latent.noise(len(self.real), self.length, random)]
        with autocast(self.device, self.precision):
            self.fake = self.generator(noise, first, self.preset.slab)

            self.critics.requires_grad_(True)
            self.optimizer_D.zero_grad()
            self.backward_D()
            self.optimizer_D.step()

            self.critics.requires_grad_(False)
            self.optimizer_G.zero_grad()
            self.backward_G()
            self.optimizer_G.step()
        self.iteration += 1
        return {name: float(value.detach()) for name, value in self.losses.items()}

    def decisions(self, three_slices):
        """D_slice's (B, N) and D_slab's (B, 1) of three-slices (B, N, 3, H, W): the slab is made of their centres."""
        count, slab = three_slices.shape[:2]
        slices = self.critics["slice"](three_slices.flatten(0, 1), self.position.repeat(count)).unflatten(0, (count, slab))
        return [slices, self.critics["slab"](three_slices[:, None, :, 1])[:, None]]

    def backward_D(self):
        """Equation 2 and the gradient penalty on real data."""
        self.real.requires_grad_(True)
        on_real, on_fake = self.decisions(self.real), self.decisions(self.fake.detach())
        loss = ct_sgan_losses.critic_loss(self.preset.loss, on_real, on_fake)
        penalty = sum(ct_sgan_losses.gradient_penalty(part, self.real) for part in on_real)
        (loss + self.preset.penalty * penalty).backward()
        self.losses = {
            "loss_D": loss, "penalty": penalty, "slice_real": on_real[0].mean(), "slice_fake": on_fake[0].mean(),
            "slab_real": on_real[1].mean(), "slab_fake": on_fake[1].mean(),
        }  # fmt: skip

    def backward_G(self):
        """The generator's side of equation 2, through G_slice into R_v."""
        loss = ct_sgan_losses.generator_loss(self.preset.loss, self.decisions(self.fake))
        loss.backward()
        self.losses["loss_G"] = loss
        self.losses["gradient_R_v"] = norm_of_gradient(self.generator.latent)

    @torch.no_grad()
    def volumes(self, seed: int, count: int = 1) -> torch.Tensor:
        """Volumes (count, 224, 224, 224) in HU."""
        self.generator.eval()
        noise = self.generator.latent.noise(count, self.length, torch.Generator().manual_seed(seed))
        parts = [self.generator([n.to(self.device) for n in noise], first, 32) for first in range(0, self.length, 32)]
        self.generator.train()
        return to_hounsfield(pile(torch.cat(parts, 1))).cpu()


def norm_of_gradient(module: nn.Module) -> torch.Tensor:
    return torch.stack([p.grad.norm() for p in module.parameters() if p.grad is not None]).norm()


def initialise(module: nn.Module):
    """DCGAN's: normal with standard deviation 0.02, batch norm about 1; the critics', which have no norm, by their fan-in."""
    if isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, 0.2)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
        nn.init.normal_(module.weight, 1.0, 0.02)


def train(
    data: str | Path, out: str | Path, *, leave_out: tuple[str, ...] = (), iterations: int | None = None, minutes: float | None = None,
    resume: bool = False, device: str = "auto", preset: CTSGAN2021 = CTSGAN2021(), checkpoint_every: int = 250, on_log=None,
) -> Path:  # fmt: skip
    """Train on the whole chests under ``data``.

    Returns
    -------
    Path
        The folder ``out``: the log and checkpoint of ``loop.run``, ``ctsgan2021.safetensors`` and its card (for ``ctsynthesis volume
        --preset``), ``losses.png`` and ``strip.png``: generated slices, which may resemble the few scans trained on.
    """
    from .pictures import draw_loss_curves

    out = Path(out)
    device = loop.ready(out, resume, device, mps=True)
    cubes = load_cubes(data, out / "cases", preset.network.image_size, leave_out=leave_out)
    model = CTSGANTraining(preset, device, compute_dtype(device))
    last = preset.iterations if iterations is None and minutes is None else iterations
    batches = Slabs(cubes, preset.augmentation, slab=preset.slab, batch=preset.batch, seed=preset.seed)
    strip = Strip(lambda: {"planes": planes_of(model.volumes(preset.seed)[0])}, out / "samples", last)
    done = strip.run(model, batches, out, iterations=last, minutes=minutes, resume=resume, checkpoint_every=checkpoint_every, on_log=on_log)
    spacing = [sum(cube.spacing[a] for cube in cubes) / len(cubes) for a in range(3)]
    modelstore.save_model(
        out,
        model.generator.state_dict(),
        name="ctsgan2021",
        title="CT-SGAN 2021",
        kind="ctsgan2021",
        version=f"{done} iterations",
        description="Whole chests from noise, as published: a slice generator driven by a BiLSTM, trained on few scans.",
        network={**asdict(preset.network), "spacing": spacing},
        hu_map={"range": list(HU_RANGE)},
        training_data=[f"{cube.name}: the whole chest" for cube in cubes],
        limits=["Trained on few scans, it may draw them again: see its audit.", "Unlike the default preset it knows no structures."],
    )
    draw_loss_curves(loop.read_log(out), out / "losses.png")
    draw_planes(strip, out / "strip.png")
    return out
