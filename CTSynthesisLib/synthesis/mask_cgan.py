"""The engine of the default models: a condition goes through the slab U-Net block by block and comes out as HU."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..anatomy import Tissue
from ..errors import SynthesisFailed
from ..modelstore import ModelCard, load_into
from ..networks.slab_unet import SlabUNet, SlabUNetConfig
from ..volume import AIR_HU
from . import grain
from .blocks import VOXELS_AT_ONCE, blocks
from .condition import CLASS_OF_TISSUE, Condition, Scan
from .hu_map import HUMap
from .noise import CELL, SEEN, add_grain, lattice_noise


@dataclass(frozen=True)
class MaskCGAN:
    """A loaded model on a device. Use :func:`load`, which keeps models warm."""

    card: ModelCard
    network: SlabUNet
    hu_map: HUMap
    device: str
    dtype: torch.dtype

    def generate(self, condition: Condition, lattice_origin, *, seed: int, voxels: int = VOXELS_AT_ONCE, between=None) -> np.ndarray:
        """CT of the ``condition``'s grid as int16 HU (k, j, i); slices must be axial (:attr:`Geometry.anatomical_axes`).

        Parameters
        ----------
        lattice_origin : (k, j, i)
            :meth:`Geometry.lattice_origin` of the grid: fixes noise and pooling grid in the world.
        voxels : int
            Largest block; bounds the memory, does not change the result.
        between : callable, optional
            ``between(fraction)`` is called after each block and may raise to stop.
        """
        condition = self.told(condition)
        field = self.card.receptive_field
        correction = self.correction(condition.scan)
        result = np.empty(condition.values.shape, np.int16)
        done = 0
        margin = field["slices"], field["pixels"]
        tiles = blocks(result.shape, lattice_origin, stride=self.network.config.stride, margin=margin, voxels=voxels)
        for block in sorted(tiles, key=lambda block: block.size, reverse=True):  # smaller ones fit into the memory of larger ones
            result[block.window] = self._block(condition, block, lattice_origin, seed, correction)
            done += result[block.window].size
            if between:
                between(done / result.size)
        return result

    @torch.inference_mode()
    def _block(self, condition, block, lattice_origin, seed, correction):
        values = block.read(condition.values)
        planes, expected = condition.planes(values, self.hu_map, self.device, self.dtype)
        start = [origin + outer[0] for origin, outer in zip(lattice_origin, block.outer, strict=True)]
        assert start[1] % CELL == 0 and start[2] % CELL == 0, "blocks begin on the pooling grid, which is a multiple of the noise's"
        noise = lattice_noise(seed, start, values.shape, device=self.device)
        return self.finished(expected, *self._network(planes, noise), noise, correction)[block.centre]

    def _network(self, planes, noise):
        """Residual (D, H, W) and log amplitudes (D, 5, H, W), in network units."""
        with autocast(self.device, self.dtype):
            residual, amplitude = self.network(planes[None], noise[list(SEEN)].transpose(0, 1)[None].to(self.dtype))
        return residual[0], amplitude[0]

    def finished(self, expected, residual, amplitude, noise, correction: grain.Correction | None) -> np.ndarray:
        """int16 HU of a block (D, H, W) from what the network says; ``amplitude`` (D, G, H, W) and ``noise`` (G, D, H, W) a band."""
        if correction is not None:
            outside = expected < self.hu_map.to_network(torch.tensor(AIR_HU + 2.0))
            amplitude, noise = correction.amplitudes(amplitude, self.hu_map.hu_per_unit(expected), outside), correction.noise(noise)
        hu = self.hu_map.to_hu(add_grain(expected + residual, amplitude, noise))
        return hu.round_().to(torch.int16).cpu().numpy()

    def told(self, condition: Condition) -> Condition:
        """The condition with the HU that the network has to be told to draw those that are wanted."""
        hu = condition.hu.copy()
        for tissue, above in self.card.drawn_above_told.items():
            hu[condition.tissue == CLASS_OF_TISSUE[Tissue(tissue)]] -= above
        return replace(condition, hu=hu)

    def correction(self, scan: Scan) -> grain.Correction | None:
        """What brings the network's grain in even soft tissue to that of ``scan``; None where it is not known."""
        if scan.grain is None:
            return None
        labels, tissue, hu, even = grain.sample()
        condition = Condition(labels, tissue, hu, np.ones(len(hu), bool), scan)
        with torch.inference_mode():
            planes, expected = condition.planes(labels, self.hu_map, self.device, self.dtype)
            noise = lattice_noise(0, (0, 0, 0), labels.shape, device=self.device)
            residual, amplitude = self._network(planes, noise)
            plain = self.hu_map.to_hu(expected + residual)
            amplitude = amplitude.transpose(0, 1).exp()
            kinds = torch.stack([self.hu_map.to_hu(expected + residual + a * n) - plain for a, n in zip(amplitude, noise, strict=True)])
            margin = self.card.receptive_field["slices"] - 1
            inner = slice(margin, -margin)
        return grain.correction(scan.grain, plain[inner].cpu().clone(), kinds[:, inner].cpu().clone(), even[inner], scan.spacing)


_warm: dict[tuple, MaskCGAN] = {}


def load(card: ModelCard, device: str = "auto") -> MaskCGAN:
    """The model of ``card`` on ``device``, loaded once a process."""
    device = choose_device(device)
    dtype = compute_dtype(device)
    key = (card.path, card.sha256, device, dtype)
    if key not in _warm:
        network = SlabUNet(SlabUNetConfig(**card.settings))
        load_into(network, card)
        network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
        _warm.clear()  # one model at a time: memory is the user's
        _warm[key] = MaskCGAN(card, network, HUMap(**card.hu_map), device, dtype)
    return _warm[key]


def choose_device(device: str) -> str:
    """``auto`` is the GPU if there is one, else the CPU.

    Raises
    ------
    SynthesisFailed
        If the device asked for is not there.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return "cuda" if available["cuda"] else "mps" if available["mps"] else "cpu"
    if not available[device]:
        raise SynthesisFailed(f"There is no usable {device} device for PyTorch on this machine; choose 'auto' or 'cpu'.")
    return device


def compute_dtype(device: str) -> torch.dtype:
    """bfloat16 where the device computes in it, else float32. The environment variable CTSYNTHESIS_PRECISION=float32 overrides."""
    if os.environ.get("CTSYNTHESIS_PRECISION") == "float32":
        return torch.float32
    if device == "cuda":
        # emulated, as on Volta and Turing, it is slower than float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    fast = any(getattr(torch.cpu, name, lambda: False)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return torch.bfloat16 if device == "cpu" and fast else torch.float32


def autocast(device: str | torch.device, dtype: torch.dtype | None = None) -> torch.autocast:
    """A block that computes in ``dtype``, without it in :func:`compute_dtype`; what runs there in float32 says so itself."""
    kind = torch.device(device).type
    dtype = dtype or compute_dtype(kind)
    return torch.autocast(kind, torch.bfloat16, enabled=dtype == torch.bfloat16)
