"""Random texture that lives in the world: a counter-based function of seed and lattice position, the same for every block and device.

A 32-bit integer hash of (seed, stream, k, j, i) gives four bytes whose sum is close to normal, so the values are exact on any device;
small binomial filters then limit the band to what the slice thickness can carry.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

CELL = 4  # pixels and one slice: the lattice of the coarse channel
_FINE, _COARSE = 1, 2


def lattice_noise(seed: int, start, shape, *, overlap: float = 1.0, device="cpu") -> torch.Tensor:
    """Noise (2, k, j, i) for the block of ``shape`` that begins at lattice position ``start`` (k, j, i); unit variance, float32.

    Channel 0 is fine grain, one value a voxel; channel 1 is blotches of about eight pixels. ``start``'s j and i must be multiples of
    ``CELL``. ``overlap`` is slice thickness over slice spacing: neighbouring slices of thick, overlapping reconstructions share noise.
    """
    share = min(0.5, 0.25 * overlap)
    fine = _mix_slices(_white(seed, _FINE, (start[0] - 1, start[1] - 1, start[2] - 1), [n + 2 for n in shape], device), share)
    fine = _binomial(fine, (0.2, 0.6, 0.2))

    cells = [-(-n // CELL) + 1 + 4 for n in shape[1:]]  # one to interpolate towards, two to either side for the filter
    begin = (start[0] - 1, start[1] // CELL - 2, start[2] // CELL - 2)
    coarse = _mix_slices(_white(seed, _COARSE, begin, (shape[0] + 2, *cells), device), 0.5)
    coarse = _binomial(coarse, (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16))
    coarse = _interpolate(coarse)[:, : shape[1], : shape[2]]
    return torch.stack([fine, coarse * 1.07])  # interpolation between lattice points takes some of the spread away


def _white(seed, stream, start, shape, device):
    """White noise of unit variance, one hash a lattice point."""
    position = [torch.arange(s, s + n, dtype=torch.int64, device=device) for s, n in zip(start, shape, strict=True)]
    k, j, i = (_hashed(p * prime) for p, prime in zip(position, (0x1F1F1F1F, 0x2C1B3C6D, 0x297A2D39), strict=True))
    key = _hashed(torch.tensor([(seed & 0x7FFFFFFF) * 0x9E3779B1 + stream], dtype=torch.int64, device=device))
    h = _hashed32((key + k).to(torch.int32)[:, None, None] ^ j.to(torch.int32)[:, None])
    h = _hashed32(h ^ i.to(torch.int32))
    total = sum((h >> shift) & 0xFF for shift in (0, 8, 16, 24))
    return (total.float() - 510.0) * (1.0 / 147.8)  # four uniform bytes: mean 510, standard deviation 147.8


def _hashed(x):
    """Wellons' low-bias 32-bit mixer on int64 lanes (the few numbers of each axis)."""
    x = x & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)


def _hashed32(x):
    """The same mixer on int32 lanes, where multiplication wraps; shifts are arithmetic, so the sign is masked off."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = (x ^ ((x >> 15) & 0x1FFFF)) * (0x846CA68B - (1 << 32))
    return x ^ ((x >> 16) & 0xFFFF)


def _mix_slices(x, share):
    """Each slice with ``share`` of its two neighbours; two slices fewer, unit variance."""
    mixed = x[1:-1] + share * (x[:-2] + x[2:])
    return mixed / (1 + 2 * share**2) ** 0.5


def _binomial(x, taps):
    """Separable in-plane filter without padding; unit variance."""
    kernel = torch.tensor(taps, dtype=torch.float32, device=x.device)
    x = x[:, None]
    x = F.conv2d(F.conv2d(x, kernel[None, None, :, None]), kernel[None, None, None, :])
    return x[:, 0] / float(kernel.square().sum())


def _interpolate(x):
    """Linear interpolation from cells to pixels, exactly: lattice point c lies on pixel c·CELL."""
    weight = torch.arange(CELL, device=x.device) / CELL
    x = x[:, :-1, None] + (x[:, 1:, None] - x[:, :-1, None]) * weight[:, None]  # (k, cells, CELL, cells)
    x = x.flatten(1, 2)
    x = x[..., :-1, None] + (x[..., 1:, None] - x[..., :-1, None]) * weight
    return x.flatten(2, 3)
