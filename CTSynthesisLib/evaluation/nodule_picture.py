"""A picture of nodules before and after they were put in or taken out: a column each, in three planes and lung window."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ..files.beside import written_beside
from ..volume import Geometry, Volume
from .picture import anatomical

SIDE, GAP, HEAD = 150, 4, 34  # pixels
MOST = 12  # nodules
WINDOW = (-1150.0, 350.0)  # HU
INK, PAPER = (226, 230, 235), (13, 15, 18)


def nodule_picture(before: Volume, made, path) -> Path:
    """Write the picture as PNG; ``made`` is what :func:`CTSynthesisLib.synthesis.nodules.inject` or ``erase`` returned."""
    from PIL import Image, ImageDraw, ImageFont

    facts = json.loads(made.volume.metadata["CTSynthesis.Nodules"])[-1]
    nodules = facts.get("injected") or facts.get("erased")
    labels = made.segmentation.array
    shown = [n for n in range(1, min(len(nodules), MOST) + 1) if (labels == n).any()]
    sheet = Image.new("RGB", (GAP + len(shown) * (SIDE + GAP), HEAD + 6 * (SIDE + GAP)), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for column, number in enumerate(shown):
        left, fact = GAP + column * (SIDE + GAP), nodules[number - 1]
        title = (f"{fact['diameter_mm']:g} mm {fact['kind']}", fact["edge"]) if "kind" in fact else (f"{fact['ml']:g} ml", "erased")
        for line, text in enumerate(title):
            pen.text((left + SIDE / 2, 10 + 14 * line), text, INK, font, anchor="mm")
        columns = [_planes(volume.array, volume.geometry, labels == number) for volume in (before, made.volume)]
        for row, image in enumerate(image for pair in zip(*columns, strict=True) for image in pair):
            sheet.paste(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC), (left, HEAD + row * (SIDE + GAP)))
    path = Path(path)
    with written_beside(path) as part:
        sheet.save(part, format="PNG", optimize=True)
    return path


def _planes(array: np.ndarray, geometry: Geometry, mask: np.ndarray) -> list[np.ndarray]:
    """Axial, coronal and sagittal cuts (uint8) through the middle of ``mask``, square in mm."""
    turned, steps = anatomical(array, geometry)
    where = np.argwhere(anatomical(mask, geometry)[0])
    centre = where.min(0) + np.ptp(where, axis=0) // 2
    reach = max(20.0, 0.9 * float((np.ptp(where, axis=0) * steps).max()))  # mm
    images = []
    for axis in range(3):
        image = np.take(turned, centre[axis], axis)
        rows, columns = (n for n in range(3) if n != axis)
        at = [np.clip(np.rint(centre[n] + np.linspace(-reach, reach, SIDE) / steps[n]), 0, turned.shape[n] - 1).astype(int)
              for n in (rows, columns)]  # fmt: skip
        grey = np.clip((image[np.ix_(*at)] - WINDOW[0]) / (WINDOW[1] - WINDOW[0]), 0, 1)
        images.append((255 * grey).astype(np.uint8))
    return images
