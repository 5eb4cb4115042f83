"""Does a classifier still see a nodule where one was erased?

``python -m CTSynthesisLib.evaluation.nodule_seen --data DIR --train A B --cases C D -o FILE.json`` trains a small 3D network on cubes of
lung with and without injected nodules of some persons, and asks it about others: injected nodules, outlined real ones where the cases have
any, healthy places, and all of the nodules after they were erased.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..files import read_segmentation, read_volume
from ..synthesis.nodule_places import lungs_of, masks_of, random_places
from ..synthesis.nodule_shape import EDGES, KINDS, Nodule
from ..synthesis.nodule_voi import voi_at
from ..synthesis.nodules import erase, inject

SIDE = 32  # mm and voxels
DIAMETERS = (6.0, 20.0)  # mm
JITTER_MM = 3.0
LUNG_WINDOW = (-1000.0, 200.0)  # HU


def cubes_of(path: Path, count: int, seed: int) -> dict[str, np.ndarray]:
    """Cubes (n, 32, 32, 32) in [0, 1]: ``injected``, ``erased``, ``healthy`` and, where the case has outlined nodules, ``real`` and
    ``real_erased``."""
    volume = read_volume(path / "ct.nrrd")
    labels, rng, spacing = lungs_of(volume), np.random.default_rng(seed), volume.geometry.spacing
    sizes = np.exp(rng.uniform(*np.log(DIAMETERS), count))
    nodules = [Nodule(float(size), KINDS[n % 3], EDGES[n // 3 % 3], seed + n) for n, size in enumerate(sizes)]
    found: dict[str, list] = {name: [] for name in ("injected", "erased", "healthy", "real", "real_erased")}
    for n in range(0, count, 10):  # in several scans, so that there is room
        some = nodules[n : n + 10]
        places = random_places(labels, spacing, some, seed + n)
        made = inject(volume, list(zip(some, places, strict=True)), labels, seed=seed + n)
        cleared = erase(made.volume, [made.segmentation.array == k + 1 for k in range(len(some))], labels, seed=seed + n)
        found["injected"] += [_cube(made.volume, place, rng) for place in places]
        found["erased"] += [_cube(cleared.volume, place, rng) for place in places]
        found["healthy"] += [_cube(volume, place, rng) for place in random_places(labels, spacing, some, seed + 50_000 + n)]
    if (path / "segmentation.nrrd").exists():
        drawn = read_segmentation(path / "segmentation.nrrd")
        if any("nodule" in segment.name for segment in drawn.segments):
            masks = masks_of(drawn)
            cleared = erase(volume, masks, labels, seed=seed)
            for mask in masks:
                middle = np.argwhere(mask).mean(0)
                found["real"] += [_cube(volume, middle, rng) for _ in range(8)]
                found["real_erased"] += [_cube(cleared.volume, middle, rng) for _ in range(8)]
    return {name: np.stack(cubes) for name, cubes in found.items() if cubes}


def _cube(volume, at, rng):
    at = np.asarray(at, float) + rng.uniform(-JITTER_MM, JITTER_MM, 3) / volume.geometry.spacing[::-1]
    voi = voi_at(volume.array, volume.geometry.spacing, at, SIDE)
    cube = (voi.to_grid(voi.hu) - LUNG_WINDOW[0]) / (LUNG_WINDOW[1] - LUNG_WINDOW[0])
    return np.clip(cube, 0, 1).astype(np.float32)


def classifier() -> nn.Module:
    """Four convolutions; logits (B, 1) of a nodule near the middle of a cube (B, 1, 32, 32, 32)."""
    layers, channels = [], (1, 16, 32, 64, 64)
    for before, after in zip(channels, channels[1:], strict=False):
        layers += [nn.Conv3d(before, after, 3, stride=2, padding=1), nn.BatchNorm3d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveMaxPool3d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(channels[-1], 1))


def train(with_nodule: np.ndarray, without: np.ndarray, *, epochs: int, seed: int = 0, report=print) -> nn.Module:
    torch.manual_seed(seed)
    network = classifier()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=1e-2)
    x = torch.from_numpy(np.concatenate([with_nodule, without]))[:, None]
    y = torch.cat([torch.ones(len(with_nodule)), torch.zeros(len(without))])
    for epoch in range(epochs):
        network.train()
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 - epoch / epochs)
        total = 0.0
        for rows in torch.randperm(len(x)).split(16):
            batch = x[rows].flip([axis for axis in (2, 3, 4) if torch.rand(()) < 0.5])
            loss = nn.functional.binary_cross_entropy_with_logits(network(batch)[:, 0], y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(rows)
        report(f"epoch {epoch + 1}: {total / len(x):.3f}")
    return network.eval()


@torch.inference_mode()
def seen(network: nn.Module, cubes: np.ndarray) -> np.ndarray:
    """Whether the network sees a nodule in each of the ``cubes``."""
    return torch.cat([network(part) for part in torch.from_numpy(cubes)[:, None].split(32)])[:, 0].numpy() > 0


def figures(said: dict[str, np.ndarray]) -> dict:
    """Accuracy on nodules and healthy places, and which share of each kind of cube was called a nodule."""
    right = np.concatenate([said["injected"], *([said["real"]] if "real" in said else []), ~said["healthy"]])
    shares = {f"{name}_called_nodule": float(one.mean()) for name, one in sorted(said.items())}
    counts = {name: len(one) for name, one in sorted(said.items())}
    return {"accuracy": float(right.mean()), "erased_called_clean": float(1 - said["erased"].mean()), **shares, "counts": counts}


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m CTSynthesisLib.evaluation.nodule_seen", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of cases")
    parser.add_argument("--train", nargs="+", required=True, help="cases to train on")
    parser.add_argument("--cases", nargs="+", required=True, help="held-out cases")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--count", type=int, default=60, help="nodules in each case (default: 60)")
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args(arguments)
    learned = [cubes_of(options.data / case, options.count, 1000 * n) for n, case in enumerate(options.train)]
    network = train(*(np.concatenate([cubes[name] for cubes in learned]) for name in ("injected", "healthy")), epochs=options.epochs)
    asked = {case: cubes_of(options.data / case, options.count, 9000 + 1000 * n) for n, case in enumerate(options.cases)}
    said = {case: {name: seen(network, part) for name, part in cubes.items()} for case, cubes in asked.items()}
    names = {name for one in said.values() for name in one}
    together = {name: np.concatenate([one[name] for one in said.values() if name in one]) for name in names}
    result = figures(together) | {"cases": {case: figures(one) for case, one in said.items()}}
    options.output.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
