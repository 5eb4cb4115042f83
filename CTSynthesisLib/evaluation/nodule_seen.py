"""Does a classifier still see a nodule where one was erased?

``python -m CTSynthesisLib.evaluation.nodule_seen --data DIR --train A B --check C --cases D E -o FILE.json`` trains the classifier of
``ctsynthesis train nodule-classifier`` on cubes of lung with and without injected nodules of some persons (``--check``: those on whom its
best weights are chosen), several times with other first weights, and asks each training, and all together (the mean of their
probabilities), about others: injected nodules, outlined real ones where the cases have any, healthy places, and all of the nodules after
they were erased.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..files import read_segmentation, read_volume
from ..synthesis.nodule_places import VALUE, lungs_of, masks_of, random_places
from ..synthesis.nodule_shape import EDGES, KINDS, Nodule
from ..synthesis.nodule_voi import bounds, cut, voi_at
from ..synthesis.nodules import erase, inject
from ..training.nodule_classifier import NoduleClassifierRecipe, fit, probabilities

SIDE = 32  # mm and voxels
DIAMETERS = (6.0, 20.0)  # mm
JITTER_MM = 3.0
AROUND_MM = 30  # of a place: the lung whose density decides what shows there
LEAST_CONTRAST = 60.0  # HU; the engine, too, tells the user that less will hardly show
RECIPE = NoduleClassifierRecipe(rate=3e-4, iterations=700, density=(0.75, 1.1), noise=25.0)
VIEWS = 8  # of each outlined nodule


def cubes_of(path: Path, count: int, seed: int, *, erased: bool = True) -> dict[str, np.ndarray]:
    """Cubes (n, 32, 32, 32) in HU (int16, 1 mm): ``injected`` and ``healthy``; with ``erased`` also that and, where the case has outlined
    nodules, ``real`` and ``real_erased``."""
    volume = read_volume(path / "ct.nrrd")
    labels, rng, spacing = lungs_of(volume), np.random.default_rng(seed), volume.geometry.spacing
    sizes = np.exp(rng.uniform(*np.log(DIAMETERS), count))
    nodules = [Nodule(float(size), KINDS[n % 3], EDGES[n // 3 % 3], seed + n) for n, size in enumerate(sizes)]
    found: dict[str, list] = {name: [] for name in ("injected", "erased", "healthy", "real", "real_erased")}
    for n in range(0, count, 10):  # in several scans, so that there is room
        some = nodules[n : n + 10]
        places = random_places(labels, spacing, some, seed + n)
        some = [_that_shows(nodule, volume, labels, at) for nodule, at in zip(some, places, strict=True)]
        made = inject(volume, list(zip(some, places, strict=True)), labels, seed=seed + n)
        found["injected"] += [_cube(made.volume, place, rng) for place in places]
        found["healthy"] += [_cube(volume, place, rng) for place in random_places(labels, spacing, some, seed + 50_000 + n)]
        if erased:
            cleared = erase(made.volume, [made.segmentation.array == k + 1 for k in range(len(some))], labels, seed=seed + n)
            found["erased"] += [_cube(cleared.volume, place, rng) for place in places]
    if erased and (path / "segmentation.nrrd").exists():
        drawn = read_segmentation(path / "segmentation.nrrd")
        if any("nodule" in segment.name for segment in drawn.segments):
            masks = masks_of(drawn)
            cleared = erase(volume, masks, labels, seed=seed)
            for middle in (np.argwhere(mask).mean(0) for mask in masks):
                found["real"] += [_cube(volume, middle, rng) for _ in range(VIEWS)]
                found["real_erased"] += [_cube(cleared.volume, middle, rng) for _ in range(VIEWS)]
    return {name: np.stack(cubes) for name, cubes in found.items() if cubes}


def _that_shows(nodule: Nodule, volume, labels, at) -> Nodule:
    """``nodule``, or a part-solid one where the lung around is nearly as dense as ground glass: nobody sees it there."""
    box = bounds(labels.shape, volume.geometry.spacing, at, AROUND_MM)
    lung = cut(volume.array, *box)[cut(labels, *box) == VALUE["lungs"]]
    shows = nodule.mean_hu - np.median(lung) >= LEAST_CONTRAST
    return nodule if shows else replace(nodule, kind="part-solid")


def _cube(volume, at, rng):
    at = np.asarray(at, float) + rng.uniform(-JITTER_MM, JITTER_MM, 3) / volume.geometry.spacing[::-1]
    voi = voi_at(volume.array, volume.geometry.spacing, at, SIDE)
    return np.rint(voi.to_grid(voi.hu)).astype(np.int16)


def samples(cubes: list[dict[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (n, 32, 32, 32) and labels (n,) of several persons' injected nodules and healthy places."""
    parts = [(one[name], label) for one in cubes for name, label in (("injected", 1), ("healthy", 0))]
    return np.concatenate([part for part, _ in parts]), np.concatenate([np.full(len(part), label) for part, label in parts])


def figures(said: dict[str, np.ndarray]) -> dict:
    """Accuracy on nodules and healthy places, and which share of each kind of cube was called a nodule, from the probabilities ``said``."""
    called = {name: one > 0.5 for name, one in said.items()}
    right = np.concatenate([called["injected"], *([called["real"]] if "real" in called else []), ~called["healthy"]])
    shares = {f"{name}_called_nodule": float(one.mean()) for name, one in sorted(called.items())}
    counts = {name: len(one) for name, one in sorted(said.items())}
    return {"accuracy": float(right.mean()), "erased_called_clean": 1 - shares["erased_called_nodule"], **shares, "counts": counts}


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m CTSynthesisLib.evaluation.nodule_seen", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of cases")
    parser.add_argument("--train", nargs="+", required=True, help="cases to train on")
    parser.add_argument("--check", nargs="+", required=True, help="cases that choose among the weights on the way")
    parser.add_argument("--cases", nargs="+", required=True, help="held-out cases")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--count", type=int, default=30, help="nodules in each case (default: 30)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings (default: 3)")
    parser.add_argument("--iterations", type=int, default=RECIPE.iterations)
    options = parser.parse_args(arguments)
    cubes = {case: cubes_of(options.data / case, options.count, 1000 * n, erased=case in options.cases)
             for n, case in enumerate([*options.train, *options.check, *options.cases])}  # fmt: skip
    learned, checked = (samples([cubes[case] for case in cases]) for cases in (options.train, options.check))
    said: list[dict] = []  # by training, case and kind of cube
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as out:
            recipe = replace(RECIPE, seed=seed)
            network, _ = fit(*learned, Path(out), recipe, iterations=options.iterations, validation=checked, on_log=print)
        said.append({case: {name: probabilities(network, part) for name, part in cubes[case].items()} for case in options.cases})
    together = {case: figures({name: np.mean([one[case][name] for one in said], axis=0) for name in cubes[case]}) for case in options.cases}
    result = {"together": together, "seeds": [{case: figures(of_case) for case, of_case in one.items()} for one in said]}
    options.output.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
