"""The recipe of the style network: ``ctsynthesis train style_network --data DIR -o DIR``.

Each step shows it two windows of one pair (``style_pairs``) and asks, for every structure there, that the Gram matrices of the whole slab
come nearer to the reference's (equation 6 of paper 001, area-normalised), that mean and spread of HU be the reference's, that anatomy
stay, and that neighbouring slices change alike. A window is not a slab: what it changes is added to what the fast result's slab has.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..modelstore import ModelCard, save_model
from ..networks.style_unet import StyleUNet, StyleUNetConfig
from ..networks.vgg import CONTENT_LAYERS, STYLE_LAYERS
from ..synthesis.noise import CELL
from ..synthesis.style_features import load_features
from ..synthesis.style_network import KINDS, OUTSIDE_HU, autocast, bounded, gram_within, moments_each, noise_of, painted, planes
from ..synthesis.texture_transfer import faded, interior
from .loop import load_weights, run
from .style_pairs import Plan, prepare

WINDOWS = 2  # of one pair; the product of what both miss does not take their differences for distance, as a square would


@dataclass(frozen=True)
class StyleNetworkRecipe:
    network: StyleUNetConfig = field(default_factory=StyleUNetConfig)
    plan: Plan = field(default_factory=Plan)
    size: int = 176  # pixels of a window, a multiple of the network's stride
    rate: float = 2e-3
    average: float = 0.998
    iterations: int = 6000
    seed: int = 0
    fewest: int = 300  # pixels of a structure in the windows, for a term of its own
    floor: float = 0.1  # of what the distance was unstyled: nearer than that is near enough
    level: float = 0.3  # weights: of mean and spread of HU, …
    content: float = 0.1
    coherence: float = 0.15
    small: float = 0.01


class Windows:
    """``sampler(n)``: windows of one pair, a function of n alone."""

    def __init__(self, paths: list[Path], recipe: StyleNetworkRecipe):
        self.paths, self.recipe, self.features = paths, recipe, load_features()
        self._kept: dict[Path, dict] = {}

    def __call__(self, n: int) -> dict:
        r, rng = self.recipe, np.random.default_rng((self.recipe.seed, n))
        order = np.random.default_rng((r.seed, n // len(self.paths), 1)).permutation(len(self.paths))
        pair = self._pair(self.paths[order[n % len(self.paths)]])
        if not pair["structures"]:
            return self((n + 1) * 7919)
        value = pair["structures"][int(rng.integers(len(pair["structures"])))]["value"]
        parts = [self._window(pair, value, rng) for _ in range(WINDOWS)]
        start = [int(v) for v in rng.integers(-(2**20), 2**20, 3) * (1, CELL, CELL)]
        shape = (len(parts) * len(parts[0][0]), r.size, r.size)
        noise = noise_of(int(rng.integers(2**31)), start, shape).unflatten(1, (len(parts), -1))
        names = ("fast", "labels", "guide")
        images = {name: torch.stack([p[i] for p in parts]) for i, name in enumerate(names)}
        return images | {"noise": noise, "structures": pair["structures"]}

    def _window(self, pair, value, rng):
        """Four slices about a pixel of the structure ``value``; beyond the image there is air."""
        size, labels = self.recipe.size, pair["labels"]
        middle = int(rng.integers(1, max(len(labels) - 2, 2)))
        slices = slice(max(middle - 1, 0), middle + 3)
        spots = (labels[slices][1:3] == value).any(0).nonzero()
        if not len(spots):
            spots = (labels[slices] > 0).any(0).nonzero()
        at = spots[int(rng.integers(len(spots)))].tolist() if len(spots) else [0, 0]
        first = [p - size // 2 + int(rng.integers(-40, 41)) for p in at]
        window = []
        for name, outside in (("fast", OUTSIDE_HU), ("labels", 0), ("guide", 0)):
            image = pair[name][slices].float()
            image = F.pad(image, (0, 0, 0, 0, 0, 4 - len(image)), value=outside) if len(image) < 4 else image
            low = [max(f, 0) for f in first]
            inner = image[:, low[0] : max(first[0] + size, 0), low[1] : max(first[1] + size, 0)]
            before = [min(max(-f, 0), size) for f in first]
            after = [size - b - n for b, n in zip(before, inner.shape[1:], strict=True)]
            window.append(F.pad(inner, (before[1], after[1], before[0], after[0]), value=outside))
        return [w.flip(2) for w in window] if rng.random() < 0.5 else window

    def _pair(self, path: Path) -> dict:
        if path not in self._kept:
            pair = torch.load(path, weights_only=True)
            fast, labels = pair["fast"][::2].float(), pair["labels"][::2]
            found = moments_each(self.features, fast, {s["value"]: labels == s["value"] for s in pair["structures"]})
            pair["structures"] = [s | {"grams": found[s["value"]].grams} for s in pair["structures"] if s["value"] in found]
            self._kept[path] = pair
        return self._kept[path]


class StyleNetworkModel:
    """Network and optimizer; ``step`` is one update. Knows no loop."""

    def __init__(self, recipe: StyleNetworkRecipe, iterations: int):
        torch.manual_seed(recipe.seed)
        self.recipe, self.iterations, self.done = recipe, iterations, 0
        self.network = StyleUNet(recipe.network).to(memory_format=torch.channels_last).train()
        self.averaged = {name: p.detach().clone() for name, p in self.network.named_parameters()}
        self.optimizer = torch.optim.AdamW(self.network.parameters(), recipe.rate, (0.9, 0.99), weight_decay=1e-3)
        self.features = load_features()

    def step(self, batch) -> dict[str, float]:
        r = self.recipe
        for group in self.optimizer.param_groups:
            cosine = float(np.cos(np.pi / 2 * min(self.done / self.iterations, 1)))
            group["lr"] = r.rate * min(1.0, (self.done + 1) / 50) * (0.02 + 0.98 * cosine**2)
        structures = batch["structures"]
        fast, labels, guide = (batch[name][:, 1:3].flatten(0, 1) for name in ("fast", "labels", "guide"))
        guide = bounded(guide)
        where = torch.stack([labels == s["value"] for s in structures], 1)  # (B, S, H, W)
        x = torch.cat([self._planes(batch, n) for n in range(len(batch["fast"]))])
        with autocast():
            steps = painted(torch.tensor([s["step"] for s in structures]), where)
            residual = self.network(x, guide * steps, torch.stack([s["statistics"] for s in structures]), where.float())
        amplitude = sum(s["spread"] * faded(where[:, n].float()) for n, s in enumerate(structures))
        made = fast + amplitude * residual
        figures, terms = self._terms(made, fast, residual, where, structures)
        loss = sum(weight * term for weight, term in terms)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            for name, p in self.network.named_parameters():
                self.averaged[name].lerp_(p, 1 - min(r.average, (1 + self.done) / (10 + self.done)))
        self.done += 1
        return {"loss": float(loss.detach())} | figures

    def _planes(self, batch, n):
        fast, labels, guide = (batch[name][n] for name in ("fast", "labels", "guide"))
        chosen = torch.isin(labels, torch.tensor([float(s["value"]) for s in batch["structures"]]))
        middle = slice(1, 3)
        return planes(fast, bounded(guide[middle]), KINDS[labels[middle].long()], chosen[middle], batch["noise"][:, n, middle])

    def _terms(self, made, fast, residual, where, structures):
        r = self.recipe
        seen = torch.zeros_like(where[:, :1])
        seen[..., 16:-16, 16:-16] = True  # what lies beyond the window is not known
        masks = where & seen
        with autocast():
            found = {layer: f.float() for layer, f in self.features(made[:, None]).items()}
            with torch.no_grad():
                before = {layer: f.float() for layer, f in self.features(fast[:, None]).items()}
        style, level, ratios, was, off = [], [], [], [], []
        for n, s in enumerate(structures):
            mask = masks[:, n]
            if mask.sum() < r.fewest:
                continue
            shown = [w for w in range(WINDOWS) if mask.unflatten(0, (WINDOWS, -1))[w].sum() >= r.fewest] or [slice(None)]
            distance, old = 0, 0
            for layer in STYLE_LAYERS:
                missing = s["grams"][layer] - s["target"][layer]
                one, *other = (missing + self._change(found[layer], before[layer], mask, w) for w in shown)
                distance = distance + (one * (other[0] if other else one)).sum() / (4 * len(missing) ** 2)
                old += float(missing.square().sum()) / (4 * len(missing) ** 2)
            scale = max(s["before"], 0.2)
            style.append(distance / (old + r.floor * scale))
            ratios.append(float(distance.detach()) / scale)
            was.append(old / scale)
            inner = interior(mask)
            a, b = made[inner], fast[inner]
            (mean, spread), (wanted, wide) = s["fast"], s["wanted"]
            missed = (mean + (a - b).mean() - wanted) / (5 + 0.1 * wide)
            variance = (spread**2 + a.var() - b.var()).clamp(min=0.05 * wide**2)
            level.append(F.smooth_l1_loss(missed, torch.zeros(())) + 4 * (0.5 * variance.log() - np.log(wide)).square())
            off.append(abs(float(missed.detach()) * (5 + 0.1 * wide)))
        zero = residual.sum() * 0
        mean = lambda values: torch.stack(values).mean() if values else zero  # noqa: E731
        (layer,) = CONTENT_LAYERS
        content = (found[layer] - before[layer]).square().sum() / before[layer].square().sum()
        pairs = residual.unflatten(0, (-1, 2))
        inside = where.any(1).unflatten(0, (-1, 2)).all(1)
        step = (inside * (pairs[:, 1] - pairs[:, 0]).square()).sum() / inside.sum().clamp(min=1)
        small = residual.square().mean()
        figures = {"style": float(mean(style).detach()), "distance": float(np.mean(ratios or [1])),
                   "distance_fast": float(np.mean(was or [1])), "hu_off": float(np.mean(off or [0])),
                   "content": float(content.detach()), "step": float(step.detach()), "residual": float(small.detach()) ** 0.5}  # fmt: skip
        terms = (1, mean(style)), (r.level, mean(level)), (r.content, content), (r.coherence, step), (r.small, small)
        return figures, terms

    @staticmethod
    def _change(found, before, mask, window):
        """What a window (or all of them) changed of a Gram matrix."""
        found, before, mask = (part.unflatten(0, (WINDOWS, -1))[window] for part in (found, before, mask))
        found, before, mask = (part.flatten(0, 1) if isinstance(window, slice) else part for part in (found, before, mask))
        return gram_within(found, mask) - gram_within(before, mask)

    def state(self):
        weights = {f"network.{n}": p for n, p in self.network.state_dict().items()} | {f"averaged.{n}": p for n, p in self.averaged.items()}
        return weights, {"optimizer": self.optimizer.state_dict(), "done": self.done}

    def load_state(self, weights, rest):
        self.network.load_state_dict({n.removeprefix("network."): w for n, w in weights.items() if n.startswith("network.")})
        self.averaged = {n.removeprefix("averaged."): w for n, w in weights.items() if n.startswith("averaged.")}
        self.optimizer.load_state_dict(rest["optimizer"])
        self.done = rest["done"]


def train(data, out, *, recipe: StyleNetworkRecipe | None = None, iterations=None, minutes=None, resume=False, device="auto",
          leave_out: tuple[str, ...] = (), on_log=print) -> int:  # fmt: skip
    """Train on pairs of every case under ``data`` except those named in ``leave_out``; returns the iterations made.

    ``out`` gets regions and pairs, which are prepared first, checkpoints and ``log.jsonl``, and in the end ``style_network.safetensors``
    with its card. It is trained on the CPU.
    """
    recipe = recipe or StyleNetworkRecipe()
    paths = prepare(data, out, recipe.plan, leave_out=leave_out, report=lambda line: None)
    last = iterations or recipe.iterations
    model = StyleNetworkModel(recipe, last)
    batches = Windows(paths, recipe)
    done = run(model, batches, out, iterations=last, minutes=minutes, resume=resume, log_every=20, checkpoint_every=100, on_log=on_log)
    names = sorted({path.name.rsplit("-", 2)[0] for path in paths})
    export(out, out, recipe, version=str(done), description=f"{done} iterations on pairs of {len(names)} cases.", training_data=names,
           command=f"ctsynthesis train style_network --data DIR --iterations {done}")  # fmt: skip
    return done


def export(out, folder, recipe: StyleNetworkRecipe, **card) -> ModelCard:
    """Write the averaged weights of the latest checkpoint in ``out`` into ``folder`` as a model file."""
    weights = {n.removeprefix("averaged."): w for n, w in load_weights(out).items() if n.startswith("averaged.")}
    return save_model(folder, weights, name="style_network", title="Style network", kind="style_network",
                      network={"unet": asdict(recipe.network), "recipe": asdict(recipe)}, hu_map={}, **card)  # fmt: skip
