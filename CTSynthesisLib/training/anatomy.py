"""Training of the model of anatomy, preset ``anatomy``: ``ctsynthesis train anatomy --data DIR -o DIR``.

CT-SGAN's alternating updates with its slice and slab critics (Pesaranghader et al. 2021), which judge label maps here; beside them, because
so few persons do not carry an adversarial loss alone, an encoder that tells each field's noise (Larsen et al. 2016, VAE/GAN).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F

from ..modelstore import ModelCard, save_model
from ..networks.anatomy_encoder import AnatomyEncoder
from ..networks.anatomy_generator import UNIT_MM, AnatomyGenerator, AnatomyGeneratorConfig
from ..networks.ct_sgan import SlabCritic, SliceCritic
from ..synthesis.anatomy_frame import CELLS, TISSUES, drawn_shares
from . import ct_sgan_losses
from .anatomy_data import Chests, Variation, load_persons
from .kept import Kept, copied, follow, weights_of
from .loop import load_weights, ready, run

PRIOR = 40  # batches whose persons tell how the patient noise lies


@dataclass(frozen=True)
class AnatomyRecipe:
    network: AnatomyGeneratorConfig = field(default_factory=AnatomyGeneratorConfig)
    variation: Variation = field(default_factory=Variation)
    batch: int = 8
    drawn: int = 2  # of them, whose tissues are drawn and judged
    slab: int = 10  # slices of 4 mm that are drawn and judged in one step
    critic_widths: tuple[int, ...] = (16, 32, 64, 96)
    loss: str = "jensen-shannon"
    penalty: float = 1.0  # weight of R1
    rate: float = 3e-3
    critic_rate: float = 2e-4
    fields: float = 1.0  # weight of the fields' squared error in units of 10 mm
    tissues: float = 1.0  # of the tissues' mean absolute error
    information: float = 2e-4  # of the Kullback-Leibler divergence of the encoder's noise from a normal one, in nats
    adversarial: float = 0.003
    alone: int = 250  # iterations on fields alone
    average: float = 0.99
    followed: float = 0.05  # how fast the noise that is judged follows what the encoder tells
    iterations: int = 1200
    seed: int = 0


class Anatomy(Kept):
    """Generator, encoder, critics and their optimizers; ``step`` is one alternating update. Knows no loop."""

    KEPT = ("networks", "averaged", "optimizer_g", "optimizer_d", "iteration")

    def __init__(self, recipe: AnatomyRecipe, device: str = "cpu"):
        self.recipe, self.device, self.iteration = recipe, device, 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.networks = torch.nn.ModuleDict(
                {
                    "generator": AnatomyGenerator(recipe.network), "encoder": AnatomyEncoder(recipe.network),
                    "slice": SliceCritic(recipe.critic_widths, len(TISSUES)), "slab": SlabCritic(recipe.critic_widths, len(TISSUES)),
                }
            ).to(device)  # fmt: skip
        self.generator, self.encoder = self.networks["generator"], self.networks["encoder"]
        self.critics = torch.nn.ModuleList([self.networks["slice"], self.networks["slab"]])
        self.averaged = copied(self.generator)
        self.optimizer_g = torch.optim.Adam([*self.generator.parameters(), *self.encoder.parameters()], recipe.rate, (0.9, 0.99))
        self.optimizer_d = torch.optim.Adam(self.critics.parameters(), recipe.critic_rate, (0.0, 0.99))

    def step(self, batch) -> dict[str, float]:
        r, losses = self.recipe, {}
        self.first = batch["first"]
        batch = {name: batch[name].to(self.device) for name in ("field", "shares", "known") if name in batch}
        self.random = torch.Generator().manual_seed(r.seed * 1_000_003 + self.iteration)
        self.position = torch.linspace(-1, 1, 2 * CELLS[0], device=self.device)[self.first : self.first + r.slab]
        for group in self.optimizer_g.param_groups:  # falls to a twentieth by the recipe's end
            group["lr"] = r.rate * max(0.05, 1 - self.iteration / r.iterations)
        if judged := self.iteration >= r.alone:
            patient, *rest = (part.to(self.device) for part in self.generator.latent.noise(r.drawn, batch["field"].shape[2], self.random))
            self.fake = self._drawn_from(self.generator.as_told(patient), *rest)
            self.backward_critics(batch, losses)
        self.backward_generator(batch, losses, judged)
        follow(self.averaged, self.generator, r.average, self.iteration)
        self.iteration += 1
        return {name: float(value.detach()) for name, value in losses.items()}

    def decisions(self, shares):
        """D_slice's (B, N) and D_slab's (B, 1) logits of a slab of shares (B, C, N, H, W), which they see at 8 mm."""
        shares = F.avg_pool3d(shares, (1, 2, 2))
        flat = shares.transpose(1, 2).flatten(0, 1)
        slices = self.critics[0](flat, self.position.repeat(len(shares))).unflatten(0, (len(shares), -1))
        return [slices, self.critics[1](shares)[:, None]]

    def backward_critics(self, batch, losses):
        """Equation 2 on slabs of label maps: real persons' fits against generated ones."""
        r = self.recipe
        self.critics.requires_grad_(True)
        self.optimizer_d.zero_grad(set_to_none=True)
        real = drawn_shares(batch["field"][: r.drawn], self.first, r.slab).requires_grad_(True)
        fake = drawn_shares(self.fake.detach(), self.first, r.slab)
        on_real, on_fake = self.decisions(real), self.decisions(fake)
        losses["critic"] = ct_sgan_losses.critic_loss(r.loss, on_real, on_fake)
        losses["penalty"] = ct_sgan_losses.gradient_penalty(sum(part.sum() for part in on_real), real)
        (losses["critic"] + r.penalty * losses["penalty"]).backward()
        self.optimizer_d.step()
        losses["slab_real"], losses["slab_fake"] = on_real[1].sigmoid().mean(), on_fake[1].sigmoid().mean()

    def backward_generator(self, batch, losses, judged: bool):
        r = self.recipe
        self.critics.requires_grad_(False)
        self.optimizer_g.zero_grad(set_to_none=True)
        patient, slices = self.encoder(batch["field"])
        self._follow(patient.detach())
        losses["information"] = (divergence(patient, 1).sum(1) + divergence(slices, 1).sum((1, 2))).mean()
        _, _, start = self.generator.latent.noise(len(patient), slices.shape[2], self.random)
        again = self._drawn_from(self._drawn(patient), self._drawn(slices), start)
        losses["fields"] = ((again - batch["field"]) / UNIT_MM).square().mean()
        loss = r.fields * losses["fields"] + r.information * losses["information"]
        if judged:
            known = batch["known"][:, None, :, None, None].float()
            error = (drawn_shares(again[: r.drawn], self.first, r.slab) - batch["shares"]).abs().sum(1, keepdim=True) / 2
            losses["tissues"] = (known * error).sum() / (known.expand_as(error).sum() + 1)
            fake = drawn_shares(self.fake, self.first, r.slab)
            losses["adversarial"] = ct_sgan_losses.generator_loss(r.loss, self.decisions(fake))
            loss = loss + r.tissues * losses["tissues"] + r.adversarial * losses["adversarial"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.generator.parameters(), 1.0)
        self.optimizer_g.step()

    def _drawn_from(self, *noise):
        """Fields of persons of the mean stature: that of each is no matter of learning."""
        return self.generator.draw(self.generator.latent(*(part.to(self.device) for part in noise)))

    def _drawn(self, told):
        """A sample of the normal distributions (B, 2, …) that the encoder tells: mean and log variance."""
        mean, log_variance = told.unbind(1)
        return mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=self.random).to(mean)

    def _follow(self, told):
        """Bring the distribution of the patient noise, from which the judged persons are drawn, towards that of a batch (B, 2, patient).

        The critics judge what will be drawn: persons of normal noise as it is are another, duller crowd (:meth:`prior`).
        """
        g, share = self.generator, self.recipe.followed
        beside = told[:, 0] - g.patient_mean
        spread = beside.T @ beside / len(told) + torch.diag(told[:, 1].exp().mean(0))
        g.patient_factor.copy_(torch.linalg.cholesky((1 - share) * g.patient_factor @ g.patient_factor.T + share * spread))
        g.patient_mean.add_(share * beside.mean(0))

    @torch.no_grad()
    def prior(self, batches) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean (patient,) and Cholesky factor (patient, patient) of the patient noise that the encoder tells of many batches' persons."""
        told = torch.cat([self.encoder(batches(n)["field"].to(self.device))[0] for n in range(PRIOR)])
        mean, variance = told[:, 0], told[:, 1].exp().mean(0)
        return mean.mean(0), torch.linalg.cholesky(torch.cov(mean.T) + torch.diag(variance))


def divergence(told: torch.Tensor, axis: int) -> torch.Tensor:
    """Kullback-Leibler divergence (nats) from a standard normal of normals whose mean and log variance lie along ``axis``."""
    mean, log_variance = told.unbind(axis)
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def train(
    data: Path, out: Path, *, leave_out: tuple[str, ...] = (), iterations=None, minutes=None, resume=False, device="auto", on_log=None,
    recipe: AnatomyRecipe = AnatomyRecipe(),
) -> ModelCard:  # fmt: skip
    """Train on the whole chests under ``data`` and write ``anatomy.safetensors`` and its card into ``out``.

    Parameters
    ----------
    leave_out : tuple of str
        Cases not to train on.
    """
    device = ready(out, resume, device, mps=True)
    out.mkdir(parents=True, exist_ok=True)
    persons = load_persons(data, out / "cases", leave_out=leave_out)
    model = Anatomy(recipe, device)
    last = recipe.iterations if iterations is None and minutes is None else iterations
    batches = Chests(
        persons, recipe.variation, slab=recipe.slab, batch=recipe.batch, drawn=recipe.drawn, alone=recipe.alone, seed=recipe.seed
    )
    model.generator.mean.copy_(batches.mean)
    done = run(model, batches, out, iterations=last, minutes=minutes, resume=resume, log_every=10, checkpoint_every=100, on_log=on_log)
    return export(out, out, model.prior(batches), [person.name for person in persons], done, recipe)


def export(out: Path, folder: Path, prior, persons: list[str], done: int, recipe: AnatomyRecipe = AnatomyRecipe(), **more) -> ModelCard:
    """The averaged generator of the training in ``out``, and the ``prior`` of its patient noise, as a model file in ``folder``."""
    kept = load_weights(out)
    weights = weights_of(kept, "averaged") | {"mean": kept["networks.generator.mean"], "patient_mean": prior[0], "patient_factor": prior[1]}
    return save_model(
        folder,
        weights,
        **{
            "name": "anatomy",
            "title": "Model of anatomy: whole chests from noise",
            "kind": "anatomy",
            "version": f"{done} iterations",
            "description": "CT-SGAN's recurrent latent drives a field that lays the standard anatomy out as another person's chest; the "
            "default model renders the label map.",
            "network": asdict(recipe.network),
            "hu_map": {},
            "training_data": [f"{name}: tissue map of the whole chest" for name in persons],
            "limits": ["Each structure of the standard anatomy is always there; pathology, other sexes' or children's proportions are not.",
                       "No person's own texture or outline is drawn, only displacements learned from a few persons."],
        } | more,
    )  # fmt: skip
