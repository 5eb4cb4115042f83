"""Generating with the memory there is: when a graphics card's runs out, smaller blocks, then the CPU, and the user is told."""

from __future__ import annotations

import gc

import torch

from ..modelstore import ModelCard
from . import mask_cgan
from .blocks import VOXELS_AT_ONCE

SMALLEST_BLOCK = VOXELS_AT_ONCE // 16  # voxels; below this a block is little more than its margin
# what a card that PyTorch was not built for says: it is there, and cannot compute
UNUSABLE_CARD = ("no kernel image", "not compatible with the current pytorch", "cuda error", "cudnn_status", "cublas_status")


def generate(card: ModelCard, device: str, condition, lattice_origin, *, seed: int, between=None):
    """:meth:`MaskCGAN.generate` with what fits.

    Returns
    -------
    hu : (k, j, i) int16 array
    device : str
        Where it was computed.
    sentences : list of str
        What the user must know of how it came about.

    Raises
    ------
    RuntimeError, MemoryError
        If the CPU's memory does not suffice either.
    """
    voxels, sentences = VOXELS_AT_ONCE, []
    while True:
        try:
            engine = mask_cgan.load(card, device)
            return engine.generate(condition, lattice_origin, seed=seed, voxels=voxels, between=between), engine.device, sentences
        except (RuntimeError, MemoryError) as error:
            out_of_memory = is_out_of_memory(error)
            on_card = mask_cgan.choose_device(device) != "cpu"
            if not out_of_memory and not (on_card and any(words in str(error).lower() for words in UNUSABLE_CARD)):
                raise
            if out_of_memory and voxels > SMALLEST_BLOCK:
                voxels //= 4
            elif on_card:
                device, voxels = "cpu", VOXELS_AT_ONCE
                reason = "memory did not suffice" if out_of_memory else "driver or PyTorch build does not fit"
                sentences = [f"The graphics card's {reason}, so the CPU was used."]
            else:
                raise
        release()  # outside the except clause: there the failed block's tensors are still held
        if voxels < VOXELS_AT_ONCE:
            sentences = [
                *(s for s in sentences if "CPU" in s),
                "Memory was short, so smaller blocks were computed; the voxels are the same.",
            ]


def is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate" in text


def release() -> None:
    """Give back memory that PyTorch keeps for later."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
