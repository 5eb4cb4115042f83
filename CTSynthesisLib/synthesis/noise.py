"""Random texture that lives in the world: a counter-based function of seed and lattice position, the same for every block and device.

A 32-bit integer hash of (seed, stream, k, j, i) gives four bytes whose sum is close to normal, so the values are exact on any device;
small binomial filters then limit the band to what the slice thickness can carry.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

CELL = 4  # pixels and one slice: the lattice of the coarse channel
CHANNELS = 5
SEEN = (3, 4)  # the channels that the generator sees; it adds all of them, each with an amplitude of its own
_FINE, _COARSE = 1, 2
_REACH = 4  # pixels, of the band filters


def lattice_noise(seed: int, start, shape, *, device="cpu") -> torch.Tensor:
    """Noise (5, k, j, i) for the block of ``shape`` that begins at lattice position ``start`` (k, j, i); unit variance, float32.

    CT grain has a spectrum that depends on the reconstruction kernel, and neighbouring slices share more of it the thicker they are. So
    the channels split it by band: 0 fine grain (periods below about 5 pixels), 1 medium grain (5 to 13), each drawn afresh for every
    slice; 2 and 3 the same shared by neighbouring slices (correlation 2/3); 4 blotches of about eight pixels. ``start``'s j and i must
    be multiples of ``CELL``.
    """
    white = white_noise(
        seed, _FINE, (start[0] - 1, start[1] - _REACH, start[2] - _REACH), (shape[0] + 2, *(n + 2 * _REACH for n in shape[1:])), device
    )
    bands = F.conv2d(white[:, None], band_filters().to(device))  # (k + 2, 2, j, i)
    shared = (bands[:-2] + 2 * bands[1:-1] + bands[2:]) * 6**-0.5

    cells = [-(-n // CELL) + 1 + 4 for n in shape[1:]]  # one to interpolate towards, two to either side for the filter
    begin = (start[0] - 1, start[1] // CELL - 2, start[2] // CELL - 2)
    coarse = white_noise(seed, _COARSE, begin, (shape[0] + 2, *cells), device)
    coarse = (coarse[1:-1] + 0.5 * (coarse[:-2] + coarse[2:])) * 1.5**-0.5
    coarse = interpolated(_binomial(coarse, (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)))[:, : shape[1], : shape[2]]
    # interpolation between lattice points takes some of the spread away
    return torch.cat([bands[1:-1].transpose(0, 1), shared.transpose(0, 1), coarse[None] * 1.07])


def add_grain(image: torch.Tensor, amplitude: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """``image`` (…, D, H, W) and the grain of each band: log ``amplitude`` (…, D, G, H, W), ``noise`` (…, G, D, H, W)."""
    for band in range(amplitude.shape[-3]):
        image = torch.addcmul(image, amplitude[..., band, :, :].exp(), noise[..., band, :, :, :])
    return image


def band_filters() -> torch.Tensor:
    """Two band-pass filters (2, 1, 9, 9) of unit energy: what a Gaussian of one pixel removes, and what one of two pixels then removes."""
    at = torch.arange(-_REACH, _REACH + 1, dtype=torch.float32)
    narrow, wide = (torch.exp(-0.5 * (at / sigma) ** 2) for sigma in (1.0, 2.0))
    narrow, wide = (torch.outer(g, g) / g.sum() ** 2 for g in (narrow, wide))
    point = torch.zeros_like(narrow)
    point[_REACH, _REACH] = 1
    filters = torch.stack([point - narrow, narrow - wide])[:, None]
    return filters / filters.square().sum((2, 3), keepdim=True).sqrt()


def white_noise(seed, stream, start, shape, device="cpu"):
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


def _binomial(x, taps):
    """Separable in-plane filter without padding; unit variance."""
    kernel = torch.tensor(taps, dtype=torch.float32, device=x.device)
    x = x[:, None]
    x = F.conv2d(F.conv2d(x, kernel[None, None, :, None]), kernel[None, None, None, :])
    return x[:, 0] / float(kernel.square().sum())


def interpolated(x):
    """Linear interpolation from cells to pixels, exactly: lattice point c lies on pixel c·CELL."""
    weight = torch.arange(CELL, device=x.device) / CELL
    x = x[:, :-1, None] + (x[:, 1:, None] - x[:, :-1, None]) * weight[:, None]  # (k, cells, CELL, cells)
    x = x.flatten(1, 2)
    x = x[..., :-1, None] + (x[..., 1:, None] - x[..., :-1, None]) * weight
    return x.flatten(2, 3)
