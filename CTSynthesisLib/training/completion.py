"""Training of the completion network: ``ctsynthesis train completion --data DIR -o DIR``.

The cases are those of the default model. Of each only the tissue map counts: parts of it are hidden, and the network is asked for them by
cross-entropy, so that its probabilities can be drawn from.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..anatomy import understand
from ..modelstore import ModelCard, save_model
from ..networks.completion_unet import CompletionUNet, CompletionUNetConfig
from ..regions import REGIONS
from ..synthesis.completion import CELL_MM, FINE_MM, GUESSES, inputs, padded
from ..synthesis.condition import AIR, BLOOD, BODY, BODY_HU, BONE, CLASS_OF_TISSUE, FAT, GAS, LUNG, SOFT
from .kept import Kept, copied, follow, weights_of
from .loop import load_weights, ready, run
from .slab_data import FIRST_ORGAN, Case, load_cases

CONTRAST_ML = 20.0  # of blood told apart by its brightness: the scan has contrast medium
PAINTED = 250  # label value of make-believe organs
_REGION_CLASS = {u.segment.value: CLASS_OF_TISSUE[u.structure.tissue] for u in understand(REGIONS)}
_VALUE = {segment.name: segment.value for segment in REGIONS}


@dataclass(frozen=True)
class CompletionRecipe:
    network: CompletionUNetConfig = field(default_factory=CompletionUNetConfig)
    rate: float = 5e-3
    average: float = 0.99
    seed: int = 0
    iterations: int = 1500
    most_cells: int = 88  # along each axis
    fewest_slices: int = 14  # of cells
    scale: float = 0.14  # to either side, each axis by itself
    rotation: float = 8.0  # degrees
    bend_mm: float = 5.0


class Completion(Kept):
    """Network and optimizer; ``step`` is one update. Knows no loop."""

    KEPT = ("network", "averaged", "optimizer", "iteration")

    def __init__(self, recipe: CompletionRecipe, device: str = "cpu"):
        self.recipe, self.device, self.iteration = recipe, device, 0
        self.network = CompletionUNet(recipe.network).to(device)
        self.averaged = copied(self.network)
        self.optimizer = torch.optim.Adam(self.network.parameters(), recipe.rate, (0.9, 0.99))

    def step(self, batch) -> dict[str, float]:
        x, target, weight = (batch[name].to(self.device) for name in ("inputs", "target", "weight"))
        for group in self.optimizer.param_groups:  # falls to a tenth by the recipe's end
            group["lr"] = self.recipe.rate * max(0.1, 0.5 + 0.5 * math.cos(math.pi * min(1.0, self.iteration / self.recipe.iterations)))
        logits = self.network(x)  # in float32: in bfloat16 its gradient was once not finite within 60 iterations, and no faster
        entropy = -(target * F.log_softmax(logits, dim=1)).sum(1)
        loss = (weight * entropy).sum() / weight.sum().clamp(min=1)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        follow(self.averaged, self.network, self.recipe.average, self.iteration)
        with torch.no_grad():
            right = ((logits.argmax(1) == target.argmax(1)) * weight).sum() / weight.sum().clamp(min=1)
        self.iteration += 1
        return {"cross_entropy": float(loss.detach()), "right": float(right)}


class HiddenTissues:
    """``sampler(n)`` is batch n, one volume: a function of n alone."""

    def __init__(self, cases: list[Case], recipe: CompletionRecipe):
        self.cases, self.recipe = cases, recipe
        self.contrast = [(case.values == _VALUE["blood"]).sum() * np.prod(case.spacing) / 1000 > CONTRAST_ML for case in cases]

    def __call__(self, n: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.recipe.seed, n))
        which = int(rng.integers(len(self.cases)))
        case, contrast = self.cases[which], self.contrast[which]
        labels = _transformed(case, self.recipe, rng)
        classes = torch.zeros(256, dtype=torch.long)
        for value, kind in {**case.tissue, **_REGION_CLASS, _VALUE["lung_vessels"]: LUNG}.items():
            classes[value] = kind
        truth = classes[labels]
        shown, hu = _hide(labels, truth, contrast, rng)
        x = inputs(shown, hu, float(contrast))
        asked = (shown == BODY) & (truth != AIR) & (truth != BODY)
        target = F.avg_pool3d(torch.stack([(truth == kind) & asked for kind in GUESSES]).float(), 2)
        weight = target.sum(0)
        stride = self.recipe.network.stride
        x, target, weight = padded(x, stride), padded(target, stride), padded(weight[None], stride)[0]
        return {"inputs": x[None], "target": (target / weight.clamp(min=1e-3))[None], "weight": weight[None]}


def _transformed(case: Case, recipe: CompletionRecipe, rng) -> torch.Tensor:
    """The case's label values on a fine grid (2D, 2H, 2W): scaled, turned, bent, and a random run of its slices."""
    scale = 1 + rng.uniform(-recipe.scale, recipe.scale, 3)
    size = np.array(case.values.shape) * np.array(case.spacing[::-1]) * scale  # mm
    cells = np.clip(np.ceil(size / CELL_MM).astype(int), 1, recipe.most_cells)
    cells[0] = int(rng.integers(min(recipe.fewest_slices, cells[0]), cells[0] + 1))
    spare = np.maximum(size - cells * CELL_MM, 0)
    first = np.array([rng.uniform(0, spare[0]), spare[1] / 2, spare[2] / 2])
    k, j, i = (torch.from_numpy((np.arange(2 * n) + 0.5) * FINE_MM + f) for n, f in zip(cells, first, strict=True))
    z, y, x = torch.meshgrid(k, j, i, indexing="ij")
    angle = np.deg2rad(rng.uniform(-recipe.rotation, recipe.rotation))
    cy, cx = size[1] / 2, size[2] / 2
    y, x = cy + np.cos(angle) * (y - cy) - np.sin(angle) * (x - cx), cx + np.sin(angle) * (y - cy) + np.cos(angle) * (x - cx)
    bend = torch.from_numpy(rng.normal(0, recipe.bend_mm, (1, 3, 4, 6, 6)))
    dz, dy, dx = F.interpolate(bend, size=z.shape, mode="trilinear", align_corners=True)[0]
    grid = torch.stack([2 * (p + d) / s - 1 for p, d, s in ((x, dx, size[2]), (y, dy, size[1]), (z, dz, size[0]))], dim=-1)
    values = torch.from_numpy(case.values).float()[None, None]
    grid[..., 2].clamp_(-1 + 1 / len(case.values), 1 - 1 / len(case.values))  # the body goes on above and below the scan
    return F.grid_sample(values, grid[None].float(), mode="nearest", padding_mode="zeros", align_corners=False)[0, 0].long()


def _hide(labels, truth, contrast, rng):
    """The tissue classes (2D, 2H, 2W) that are shown, BODY where hidden, and the expected HU of each voxel."""
    shown = torch.where(truth == AIR, AIR, BODY)
    hu = torch.full(truth.shape, BODY_HU)
    generous = rng.uniform(0, 1) if rng.random() > 0.15 else 0.0  # nothing but the outline
    for kind in (GAS, LUNG, FAT, SOFT, BLOOD, BONE):
        if rng.random() < (min(2 * generous, 0.9) if kind == LUNG else 0.6 * generous):
            where = (truth == kind) & (labels < FIRST_ORGAN)
            shown[where] = kind
    for value in labels[labels >= FIRST_ORGAN].unique().tolist():
        if rng.random() < generous:
            where = labels == value
            shown[where] = truth[where]
            hu[where] = 45 + float(rng.normal(0, 15))
    for _ in range(int(rng.integers(0, 9) * min(1.0, 2 * generous))):  # organs as people paint them
        where = _blob(truth.shape, rng) & ((truth == SOFT) | (truth == BLOOD))
        shown[where] = SOFT if rng.random() < 0.5 else truth[where]
        hu[where] = 45 + float(rng.normal(0, 15))
    hu[shown == BLOOD] = 200.0 if contrast else 42.0
    return shown, hu


def _blob(shape, rng):
    """An ellipsoid of 15 to 60 mm somewhere in the grid."""
    total = 0.0
    for axis, size in enumerate(shape):
        at = (torch.arange(size) - float(rng.uniform(0, size))) * FINE_MM / float(rng.uniform(15, 60))
        total = total + at.square().reshape([-1 if a == axis else 1 for a in range(3)])
    return total < 1


def train(data, out, *, recipe: CompletionRecipe | None = None, iterations=None, minutes=None, resume=False, device="auto",
          leave_out: tuple[str, ...] = (), threads: int | None = None, on_log=print) -> int:  # fmt: skip
    """Train on every case under ``data`` except those named in ``leave_out``; returns the iterations made. See :func:`default.train`."""
    recipe = recipe or CompletionRecipe()
    if threads:
        torch.set_num_threads(threads)
    device = ready(out, resume, device)
    torch.manual_seed(recipe.seed)
    cases = load_cases(data, Path(out) / "cases", leave_out=leave_out)
    model = Completion(recipe, device)
    done = run(model, HiddenTissues(cases, recipe), out, iterations=iterations or recipe.iterations, minutes=minutes, resume=resume,
               log_every=20, checkpoint_every=100, on_log=on_log)  # fmt: skip
    command = f"ctsynthesis train completion --data {data} --iterations {done}"
    export(out, out, recipe=recipe, title="Trained on own data", version=str(done), description=f"{done} iterations on {len(cases)} cases.",
           training_data=[case.name for case in cases], command=command)  # fmt: skip
    return done


def export(out, folder, *, name: str = "completion", recipe: CompletionRecipe | None = None, **card) -> ModelCard:
    """Write the averaged network of the latest checkpoint in ``out`` as a model file with its card into ``folder``."""
    recipe = recipe or CompletionRecipe()
    weights = weights_of(load_weights(out), "averaged")
    return save_model(folder, weights, name=name, kind="completion", network=asdict(recipe.network), hu_map={}, **card)
