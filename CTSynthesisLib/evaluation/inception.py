"""The usual features for the Fréchet distance, and the Inception Score, from the weights file that the user brings.

The file is ``pt_inception-2015-12-05-6726825d.pth``; it is not ours to ship. Only its numbers are read: the loader runs no
code. Slices are windowed to -1000 … 400 HU, grey in all three channels, and enlarged to 299 × 299 pixels.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import UnusableInput
from ..networks.inception import FEATURES, SIDE, Inception
from ..volume import Volume
from .distribution import PLANES, STEP
from .fidelity import on_working_grid

WINDOW = (-1000.0, 400.0)  # HU
SPACING = 1.0  # mm
AT_ONCE = 8


def all_planes(volume: Volume, weights: str | Path, planes=PLANES) -> dict[str, np.ndarray]:
    """Features (n, 2048) of slices 10 mm apart, by plane.

    Raises
    ------
    UnusableInput
        If the file does not hold the published weights' layout.
    """
    network = load_inception(str(weights))
    return {plane: _through(network, images)[0] for plane, images in slice_images(volume, planes).items()}


def inception_score(volumes: list[Volume], weights: str | Path, plane: str = "axial") -> float:
    """exp of the mean Kullback-Leibler divergence of each slice's classes from the mean of all (Salimans et al. 2016)."""
    network = load_inception(str(weights))
    scores = np.concatenate([_through(network, slice_images(volume, (plane,))[plane])[1] for volume in volumes])
    return score_of(torch.from_numpy(scores).softmax(1).double().numpy())


def score_of(shares: np.ndarray) -> float:
    """Inception Score of class probabilities (n, classes)."""
    mean = shares.mean(0, keepdims=True)
    terms = np.where(shares > 0, shares * (np.log(np.maximum(shares, 1e-30)) - np.log(np.maximum(mean, 1e-30))), 0)
    return float(np.exp(terms.sum(1).mean()))


@lru_cache(maxsize=1)
def load_inception(path: str) -> Inception:
    """The network with the weights of the file."""
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        network = Inception()
        network.load_state_dict({name: tensor for name, tensor in weights.items() if not name.startswith("AuxLogits")})
    except OSError as error:
        raise UnusableInput(f"The file '{path}' cannot be read ({error.strerror}); name the Inception weights' file.") from error
    except Exception as error:
        raise UnusableInput(f"'{path}' is not the usual weights file of Inception v3 for Fréchet distances; "
                            "pt_inception-2015-12-05-6726825d.pth is.") from error  # fmt: skip
    return network.eval().requires_grad_(False)


def slice_images(volume: Volume, planes=PLANES) -> dict[str, np.ndarray]:
    """Slices (n, h, w) in [-1, 1], 10 mm apart along the normal of each plane, at 1 mm."""
    hu, *_ = on_working_grid(volume, SPACING)
    grey = (np.clip(hu, *WINDOW).astype(np.float32) - WINDOW[0]) / (WINDOW[1] - WINDOW[0]) * 2 - 1
    step = int(STEP / SPACING)
    result = {}
    for plane in planes:
        stack = np.moveaxis(grey, PLANES.index(plane), 0)[step // 2 :: step]
        result[plane] = stack[(stack > -0.3).mean((1, 2)) > 0.05]  # slices that cut the body
    return result


@torch.inference_mode()
def _through(network, images):
    features, scores = [np.empty((0, FEATURES), np.float32)], []
    for start in range(0, len(images), AT_ONCE):
        x = torch.from_numpy(np.ascontiguousarray(images[start : start + AT_ONCE]))[:, None]
        x = F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", align_corners=False).expand(-1, 3, -1, -1)
        found = network(x)
        features.append(found[0].numpy())
        scores.append(found[1].numpy())
    return np.concatenate(features), np.concatenate(scores) if scores else np.empty((0, network.fc.out_features), np.float32)
