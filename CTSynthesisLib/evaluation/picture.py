"""A picture of a synthetic CT: axial, sagittal and coronal, each as segmentation, soft-tissue and lung window."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..files.beside import written_beside
from ..volume import AIR_HU, Geometry, LabelMap, Volume, reorder

WINDOWS = {"Soft tissue": (350, 40), "Lung": (1400, -500)}  # name: width, level in HU
PLANES = ("Axial", "Sagittal", "Coronal")
PLANE_COLORS = ((243, 112, 92), (237, 213, 76), (110, 176, 75))  # 3D Slicer's red, yellow and green views

BACKGROUND, TEXT, MUTED, BADGE = (13, 15, 18), (226, 230, 235), (134, 142, 152), (240, 178, 62)
GAP, MARGIN, TICK = 14, 28, 14  # pixels


@dataclass(frozen=True)
class _Slice:
    """Where a plane cuts: its array axis in anatomical order (z, y, x) and index, and the letters at its four edges."""

    axis: int
    index: int
    left: str
    right: str
    top: str
    bottom: str


def anatomical(array: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """``array`` (k, j, i) turned so that its axes run nearest to foot, back and left; and its spacing along them in mm.

    Axes are only swapped and flipped, so an oblique volume is shown along its own slices.
    """
    axes, (upward, *others) = geometry.anatomical_axes
    flips = (not upward, *others)  # a picture begins at the head, an axial stack at the feet
    return reorder(array, axes, flips), geometry.spacing[::-1][list(axes)]


def three_planes(volume: Volume, labelmap: LabelMap | None, path, *, title: str = "", width: int = 1600) -> Path:
    """Write a PNG of ``volume`` in three planes and two windows, the segmentation beside when there is one.

    Patient right is on the left of the picture. The slices are those near the middle that cut the most structures.

    Parameters
    ----------
    volume, labelmap : on the same grid
    path : the PNG to write
    title : what to write beside "SYNTHETIC CT", for example the model and the seed
    width : of the picture in pixels
    """
    from PIL import Image, ImageDraw
    from PIL.PngImagePlugin import PngInfo

    if labelmap is not None and labelmap.array.shape != volume.array.shape:
        raise ValueError("the segmentation and the volume are on different grids")
    hounsfield, spacing = anatomical(volume.array, volume.geometry)
    labels = None if labelmap is None else anatomical(labelmap.array, labelmap.geometry)[0]
    centre = _most_telling(hounsfield, labels)
    slices = (
        _Slice(0, centre[0], "R", "L", "A", "P"),
        _Slice(2, centre[2], "A", "P", "S", "I"),
        _Slice(1, centre[1], "R", "L", "S", "I"),
    )
    extents = [np.delete(np.array(hounsfield.shape) * spacing, s.axis) for s in slices]  # (height, width) in mm
    scale = (width - 2 * MARGIN - 2 * GAP) / sum(extent[1] for extent in extents)  # pixels a mm
    sizes = [(max(1, round(extent[1] * scale)), max(1, round(extent[0] * scale))) for extent in extents]
    row_height = max(size[1] for size in sizes)
    rows = (["Segmentation"] if labelmap is not None else []) + list(WINDOWS)
    label_height, head = 26, 84
    picture = Image.new("RGB", (width, head + len(rows) * (row_height + label_height + GAP) + MARGIN - GAP), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    _headline(draw, title, volume)

    colors = _color_table(labelmap) if labelmap is not None else None
    for r, row in enumerate(rows):
        left, top = MARGIN, head + r * (row_height + label_height + GAP)
        for column, (place, size) in enumerate(zip(slices, sizes, strict=True)):
            cut = np.take(hounsfield, place.index, axis=place.axis)
            if row == "Segmentation":
                tile = _paint(np.take(labels, place.index, axis=place.axis), size, colors)
                caption = f"{PLANES[column]}  ·  segmentation"
            else:
                window, level = WINDOWS[row]
                tile = _window(cut, size, window, level)
                caption = f"{PLANES[column]}  ·  {row.lower()}  W {window} L {level}"
            corner = (left, top + label_height + (row_height - size[1]) // 2)
            draw.text((left, corner[1] - 7), caption, fill=MUTED, font=_font(15), anchor="ls")
            picture.paste(tile, corner)
            _frame(draw, corner, size, place, column, slices, hounsfield.shape)
            if column == 2 and r == len(rows) - 1:
                _scale_bar(draw, corner, size, scale)
            left += size[0] + GAP
    info = PngInfo()
    info.add_text("Description", f"SYNTHETIC CT, not a scan of a patient. {title}".strip())
    with written_beside(path) as part:
        picture.save(part, format="PNG", optimize=True, pnginfo=info)
    return Path(path)


def _most_telling(hounsfield, labels) -> tuple[int, int, int]:
    """For each axis a rather central slice with a large sum of the square roots of its structures' areas, so that small ones count."""
    step = tuple(slice(None, None, max(1, n // 160)) for n in hounsfield.shape)
    cells = (hounsfield > -700).astype(np.int64) if labels is None else np.unique(labels[step], return_inverse=True)[1]
    cells = cells[step] if labels is None else cells.reshape(labels[step].shape)
    found = []
    for axis, whole in enumerate(step):
        count = int(cells.max()) + 1
        flat = np.moveaxis(cells, axis, 0).reshape(cells.shape[axis], -1)
        areas = np.stack([np.bincount(row, minlength=count) for row in flat])[:, min(1, count - 1) :]
        central = 1 - 0.4 * np.linspace(-1, 1, len(areas)) ** 2  # a cut through the middle shows more of what is around
        found.append(int(np.argmax(np.sqrt(areas).sum(axis=1) * central)) * (whole.step or 1))
    return tuple(found)


def _window(cut, size, window, level):
    """A slice of HU at ``size`` (width, height) through a display window, 8 bit."""
    from PIL import Image

    image = Image.fromarray(np.clip(cut, AIR_HU - 24, 3000).astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    gray = (np.asarray(image) - (level - window / 2)) * (255 / window)
    return Image.fromarray(np.clip(np.rint(gray), 0, 255).astype(np.uint8)).convert("RGB")


def _paint(cut, size, colors):
    """A slice of labels as translucent fills with firm outlines; boundaries are interpolated, not stepped."""
    from PIL import Image, ImageFilter

    fine = (size[0] * 2, size[1] * 2)  # drawn at twice the size, so that the outlines come out smooth
    voxel = (fine[0] / cut.shape[1], fine[1] / cut.shape[0])  # pixels
    best, winner = np.zeros(fine[::-1], np.uint8), np.zeros(fine[::-1], cut.dtype)
    for value in np.unique(cut):
        mask = Image.fromarray(((cut == value) * 255).astype(np.uint8)).resize(fine, Image.Resampling.BILINEAR)
        share = np.asarray(mask.filter(ImageFilter.GaussianBlur(tuple(0.6 * v for v in voxel))))
        winner = np.where(share > best, value, winner)
        best = np.maximum(best, share)
    color = colors[winner]
    edge = np.zeros(winner.shape, bool)
    for axis in (0, 1):
        differs = np.diff(winner, axis=axis) != 0
        before, after = [slice(None)] * 2, [slice(None)] * 2
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        edge[tuple(before)] |= differs
        edge[tuple(after)] |= differs
    opacity = np.where(edge, 1.0, 0.62)[..., None] * (winner > 0)[..., None]
    painted = np.rint(color * opacity).astype(np.uint8)
    return Image.fromarray(painted).resize(size, Image.Resampling.LANCZOS)


def _color_table(labelmap) -> np.ndarray:
    """RGB (0 to 255) for every label value; a segment without a color gets one of evenly spread hues."""
    table = np.zeros((int(max([s.value for s in labelmap.segments] + [labelmap.array.max()])) + 1, 3))
    for n, segment in enumerate(labelmap.segments):
        table[segment.value] = segment.color or colorsys.hsv_to_rgb((n * 0.618034) % 1, 0.5, 0.9)
    return table * 255


def _font(size):
    from PIL import ImageFont

    return ImageFont.load_default(size)  # Pillow's own typeface, the same on every machine


def _headline(draw, title, volume):
    badge = "SYNTHETIC CT"
    font = _font(19)
    box = draw.textbbox((MARGIN + 12, 46), badge, font=font, anchor="lm")
    draw.rounded_rectangle((box[0] - 12, 28, box[2] + 12, 64), 6, fill=BADGE)
    draw.text((MARGIN + 12, 46), badge, fill=BACKGROUND, font=font, anchor="lm")
    slices, rows, columns = volume.array.shape
    facts = f"{columns} x {rows} x {slices} voxels,  {' x '.join(f'{s:.3g}' for s in volume.geometry.spacing)} mm"
    draw.text((box[2] + 30, 46), title or facts, fill=TEXT, font=_font(18), anchor="lm")
    if title:
        draw.text((draw.im.size[0] - MARGIN, 46), facts, fill=MUTED, font=_font(16), anchor="rm")


def _frame(draw, corner, size, place, column, slices, shape):
    """Edge letters, and ticks in the other planes' colors where those planes cut this one."""
    x, y = corner
    w, h = size
    font = _font(15)
    for letter, at, anchor in (
        (place.left, (x + TICK + 6, y + h / 2), "lm"),
        (place.right, (x + w - TICK - 6, y + h / 2), "rm"),
        (place.top, (x + w / 2, y + TICK + 5), "mt"),
        (place.bottom, (x + w / 2, y + h - TICK - 5), "mb"),
    ):
        draw.text(at, letter, fill=TEXT, font=font, anchor=anchor, stroke_width=2, stroke_fill=BACKGROUND)
    row_axis, column_axis = [axis for axis in range(3) if axis != place.axis]
    for other, color in zip(slices, PLANE_COLORS, strict=True):
        where = (other.index + 0.5) / shape[other.axis]
        if other.axis == row_axis:
            at = y + where * h
            draw.line((x, at, x + TICK, at), fill=color, width=2)
            draw.line((x + w - 1 - TICK, at, x + w - 1, at), fill=color, width=2)
        elif other.axis == column_axis:
            at = x + where * w
            draw.line((at, y, at, y + TICK), fill=color, width=2)
            draw.line((at, y + h - 1 - TICK, at, y + h - 1), fill=color, width=2)
    draw.rectangle((x, y, x + w - 1, y + h - 1), outline=tuple(c // 2 for c in PLANE_COLORS[column]))


def _scale_bar(draw, corner, size, scale):
    x, y = corner[0] + size[0] - 16, corner[1] + size[1] - 14
    length = 50 * scale
    draw.line((x - length - 1, y, x + 1, y), fill=BACKGROUND, width=5)
    draw.line((x - length, y, x, y), fill=TEXT, width=2)
    draw.text((x - length / 2, y - 6), "5 cm", fill=TEXT, font=_font(13), anchor="mb", stroke_width=2, stroke_fill=BACKGROUND)
