"""What the generator is told about each voxel: a small set of tissue classes, the expected HU, and what is unknown.

No channel belongs to a training label, so any vocabulary and any subset of it can be drawn (DESIGN, decision 1).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log2

import numpy as np
import torch

from ..anatomy import Tissue
from ..networks.slab_unet import SCALARS
from .hu_map import HUMap
from .request import Grain

# The classes the network knows. Parenchyma, muscle, fluid and hollow organs differ by their expected HU and their borders.
AIR, GAS, LUNG, FAT, SOFT, BLOOD, BONE, BODY = range(8)
CLASS_OF_TISSUE = {
    Tissue.AIR: AIR, Tissue.GAS: GAS, Tissue.LUNG: LUNG, Tissue.FAT: FAT, Tissue.ORGAN: SOFT, Tissue.MUSCLE: SOFT,
    Tissue.FLUID: SOFT, Tissue.HOLLOW: SOFT, Tissue.BLOOD: BLOOD, Tissue.BONE: BONE, Tissue.BODY: BODY,
}  # fmt: skip
BODY_HU = 20.0  # given for the interior that nobody specified; the network knows that it says nothing
CLASSES = 8
CHANNELS = CLASSES + 4 + SCALARS


@dataclass(frozen=True)
class Scan:
    """What is known of the scan as a whole; ``noise`` (HU), ``sharpness`` and ``slice_correlation`` are those of
    :class:`~CTSynthesisLib.synthesis.scan_quality.ScanQuality`, or None: unknown. ``grain`` is not told to the network: the engine brings
    the network's grain to it."""

    spacing: tuple[float, float, float]  # (i, j, k) mm
    noise: float | None = None
    sharpness: float | None = None
    slice_correlation: float | None = None
    grain: Grain | None = None

    def scalars(self) -> list[float]:
        in_plane = (self.spacing[0] * self.spacing[1]) ** 0.5
        return [
            log2(min(max(in_plane, 0.3), 4.0) / 0.9),
            log2(min(max(self.spacing[2], 0.3), 8.0) / 2.5),
            0.0 if self.noise is None else min(self.noise, 80.0) / 20.0,
            float(self.noise is not None),
            0.0 if self.sharpness is None else self.sharpness,
            float(self.sharpness is not None),
            0.0 if self.slice_correlation is None else self.slice_correlation,
            float(self.slice_correlation is not None),
        ]


@dataclass(frozen=True)
class Condition:
    """The condition of a volume, kept small: (k, j, i) label ``values`` and a table that says what each value means.

    ``tissue``, ``hu`` and ``known`` are indexed by label value; ``known`` tells a HU that was measured or set from one taken from the
    anatomy table.
    """

    values: np.ndarray  # uint8 or uint16
    tissue: np.ndarray  # (n,) uint8
    hu: np.ndarray  # (n,) float32
    known: np.ndarray  # (n,) bool
    scan: Scan = field(default_factory=lambda: Scan((0.9, 0.9, 2.5)))

    def planes(self, values: np.ndarray, hu_map: HUMap, device="cpu", dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
        """The planes (D, C, H, W) of a block of label ``values`` (D, H, W), and its expected HU map in network units."""
        tables = [torch.from_numpy(np.asarray(t)).to(device) for t in (self.tissue, self.hu, self.known)]
        return planes(torch.from_numpy(values.astype(np.int32)).to(device), *tables, self.scan, hu_map, dtype)

    def expected(self, values: np.ndarray, hu_map: HUMap, device="cpu") -> torch.Tensor:
        """The expected HU map (D, H, W) of a block alone, in network units."""
        return hu_map.to_network(_partial_volume(torch.from_numpy(self.hu[values]).to(device)))


def planes(values, tissue, hu, known, scan: Scan, hu_map: HUMap, dtype=torch.float32):
    """Condition planes (D, C, H, W) from label ``values`` (D, H, W) and per-value tables; and the expected HU map in network units.

    The latter is what the generator adds its residual to; it is blurred by a pixel, as a scanner would blur the borders.
    """
    depth, height, width = values.shape
    result = torch.empty((depth, CHANNELS, height, width), dtype=dtype, device=values.device)
    kind = tissue[values][:, None]
    result[:, :CLASSES] = kind == torch.arange(CLASSES, device=values.device)[:, None, None]
    result[:, CLASSES] = hu_map.to_network(hu)[values]
    result[:, CLASSES + 1] = ((hu - 40) / 150).clamp(-2, 2)[values]
    result[:, CLASSES + 2] = known[values]
    result[:, CLASSES + 3] = borders(values)
    result[:, CLASSES + 4 :] = torch.tensor(scan.scalars(), device=values.device)[:, None, None]
    return result, hu_map.to_network(_partial_volume(hu[values]))


def _partial_volume(hu):
    """HU (D, H, W) blurred in-plane by the taps (1, 2, 1) / 4."""
    hu = torch.nn.functional.pad(hu[:, None].float(), (1, 1, 1, 1), mode="replicate")[:, 0]
    hu = (hu[:, :-2] + 2 * hu[:, 1:-1] + hu[:, 2:]) / 4
    return (hu[:, :, :-2] + 2 * hu[:, :, 1:-1] + hu[:, :, 2:]) / 4


def borders(values: torch.Tensor) -> torch.Tensor:
    """1 where a pixel's right or lower neighbour belongs to another segment, else 0 (D, H, W)."""
    edge = torch.zeros(values.shape, device=values.device)
    edge[:, :, :-1] += values[:, :, :-1] != values[:, :, 1:]
    edge[:, :-1] += values[:, :-1] != values[:, 1:]
    return edge.clamp_(max=1)
