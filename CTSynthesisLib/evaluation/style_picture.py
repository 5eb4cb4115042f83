"""A picture like figure 3 of paper 001: content, style and result, and below them structures enlarged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..anatomy import Tissue, understand
from ..files.beside import written_beside
from ..regions import segment_regions
from ..volume import LabelMap, Volume, reorder

WINDOWS = {Tissue.LUNG: (-1100.0, -400.0), Tissue.BONE: (-200.0, 900.0), Tissue.GAS: (-1100.0, -400.0)}
SOFT = (-160.0, 240.0)  # HU
SIDE, DETAIL = 420, 240  # pixels of a whole slice and of an enlarged structure
MOST = 6  # structures
REACH = 30.0  # mm that an enlarged structure shows to either side of its centre
INK = (60, 60, 60)


def style_picture(content: Volume, reference, result: Volume, labelmap: LabelMap | None, path) -> Path:
    """Write the picture as PNG: above, an axial slice of content, style and result; below, a row a structure, each in its own window.

    ``reference`` is a :class:`~CTSynthesisLib.synthesis.style_reference.Reference`; ``labelmap`` the content's structures, or None.
    """
    from PIL import Image, ImageDraw, ImageFont

    labelmap = labelmap or segment_regions(content)
    shown = _structures(labelmap, reference)
    ours, theirs = _Axial(labelmap), _Axial(reference.labelmap)
    k = ours.best([values for _, values, _ in shown])
    r = theirs.best([values for _, _, values in shown])
    width = 3 * SIDE + 2 * 8
    sheet = Image.new("RGB", (width, 28 + SIDE + len(shown) * (DETAIL + 22)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    columns = ((content, ours, "content"), (reference.scan, theirs, "style"), (result, ours, "result"))
    for n, (volume, axial, title) in enumerate(columns):
        left = n * (SIDE + 8)
        pen.text((left + SIDE / 2, 14), title, INK, font, anchor="mm")
        sheet.paste(_fitted(axial.slice(volume, r if axial is theirs else k), axial.spacing, SIDE), (left, 28))
        for row, (name, values, other) in enumerate(shown):
            top = 28 + SIDE + row * (DETAIL + 22)
            own = other if axial is theirs else values
            cut = axial.cut(volume, own, axial.best([own]))
            detail = Image.fromarray(_grey(cut, name[1])).resize((DETAIL, DETAIL), Image.Resampling.LANCZOS)
            sheet.paste(detail, (left + (SIDE - DETAIL) // 2, top + 22))
            if n == 0:
                pen.text((4, top + 11), name[0].replace("_", " "), INK, font, anchor="lm")
    path = Path(path)
    with written_beside(path) as part:
        sheet.save(part, format="PNG", optimize=True)
    return path


def _structures(labelmap, reference):
    """Up to ``MOST`` of the content's structures that the reference shows too, the largest: name and window, values in both."""
    from ..synthesis.style_reference import counterpart

    present = set(np.unique(labelmap.array).tolist())
    found: dict[tuple[int, ...], list] = {}
    for u in understand(labelmap.segments):
        if u.segment.value in present and (theirs := counterpart(u, reference.understood)):
            found.setdefault(theirs, []).append(u)
    rows = []
    for theirs, group in found.items():
        values = tuple(u.segment.value for u in group)
        size = sum(int((labelmap.array == v).sum()) for v in values)
        name = next(u.segment.name for u in reference.understood if u.segment.value == theirs[0])
        rows.append((size, (name, WINDOWS.get(group[0].structure.tissue, SOFT)), values, theirs))
    return [row[1:] for row in sorted(rows, key=lambda row: -row[0])[:MOST]]


class _Axial:
    """A label map's axial slices, and those of volumes on its grid."""

    def __init__(self, labelmap: LabelMap):
        self.axes, self.flips = labelmap.geometry.anatomical_axes
        self.labels = reorder(labelmap.array, self.axes, self.flips)
        columns, rows, _ = labelmap.geometry.reordered(self.axes, self.flips).spacing
        self.spacing = float(rows), float(columns)

    def best(self, groups) -> int:
        """The slice that shows most of every group of label values."""
        shares = np.stack([np.isin(self.labels, values).sum((1, 2)) for values in groups]).astype(float)
        return int((shares / shares.max(1, keepdims=True).clip(1)).sum(0).argmax())

    def slice(self, volume: Volume, k: int) -> np.ndarray:
        return reorder(volume.array, self.axes, self.flips)[k]

    def cut(self, volume: Volume, values, k: int) -> np.ndarray:
        """About the place deepest inside the structure in slice ``k``: 2 · REACH mm a side."""
        inside = np.isin(self.labels[k], values)
        image = sitk.GetImageFromArray(np.pad(inside, 1).astype(np.uint8))
        depth = sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(image, insideIsPositive=True, squaredDistance=False))[1:-1, 1:-1]
        at = np.unravel_index(int(depth.argmax()), depth.shape)
        half = [max(int(REACH / s), 4) for s in self.spacing]
        padded = np.pad(self.slice(volume, k), [(h, h) for h in half], constant_values=-1000)
        return padded[at[0] : at[0] + 2 * half[0], at[1] : at[1] + 2 * half[1]]


def _grey(hu: np.ndarray, window) -> np.ndarray:
    low, high = window
    return ((np.clip(hu.astype(np.float32), low, high) - low) / (high - low) * 255).astype(np.uint8)


def _fitted(hu: np.ndarray, spacing, side: int):
    from PIL import Image

    size = np.array(hu.shape) * spacing
    rows, columns = (max(int(n), 1) for n in size / size.max() * side)
    image = Image.fromarray(_grey(hu, SOFT)).resize((columns, rows), Image.Resampling.LANCZOS)
    sheet = Image.new("L", (side, side))
    sheet.paste(image, ((side - columns) // 2, (side - rows) // 2))
    return sheet
