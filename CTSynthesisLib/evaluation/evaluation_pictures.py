"""Pictures of an evaluation: the real scan above the synthetic one in three planes and two windows, and all methods below each other.

They show real persons, so they belong into a folder that is not published.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..files.beside import written_beside
from ..volume import Volume
from .cases import Case
from .picture import BACKGROUND, BADGE, GAP, MARGIN, MUTED, PLANES, TEXT, WINDOWS, anatomical

WIDTH = 1500  # pixels
ROW_TITLE, HEAD = 22, 54  # pixels
REAL = (120, 190, 235)  # the colour of what is a real scan


def real_above_synthetic(case: Case, synthetic: Volume, path: Path, title: str) -> Path:
    """Soft-tissue and lung window, each with the real scan above the synthetic one; axial, sagittal and coronal beside each other."""
    rows = [
        (name, f"{who}  ·  {window.lower()}, W {WINDOWS[window][0]} L {WINDOWS[window][1]}", colour, volume, (window,) * 3)
        for window in WINDOWS
        for name, who, colour, volume in (("real", "REAL", REAL, case.ct), ("synthetic", "SYNTHETIC", BADGE, synthetic))
    ]
    return _sheet(case, [row[1:] for row in rows], (0, 2, 1), path, title)


def all_methods(case: Case, drawn: dict[str, Volume], path: Path, title: str) -> Path:
    """The real scan and what each method drew of it, one row each: three planes in the soft-tissue window, the axial one also in lung."""
    soft, lung = WINDOWS
    rows = [("REAL", REAL, case.ct)] + [(name.upper(), BADGE, volume) for name, volume in drawn.items()]
    return _sheet(case, [(who, colour, volume, (soft, soft, soft, lung)) for who, colour, volume in rows], (0, 2, 1, 0), path, title)


def _sheet(case, rows, axes, path, title):
    """``rows`` of (title, colour, volume, window of each column), their columns cut across ``axes`` (z, y, x) of the body."""
    from PIL import Image, ImageDraw
    from PIL.PngImagePlugin import PngInfo

    regions, spacing = anatomical(case.regions.array, case.ct.geometry)
    box = _box(regions > 0)
    cuts = _cuts(regions)
    extents = [np.delete(np.array(regions[box].shape) * spacing, axis) for axis in axes]  # (height, width) mm
    scale = (WIDTH - 2 * MARGIN - (len(axes) - 1) * GAP) / sum(extent[1] for extent in extents)
    sizes = [(max(1, round(extent[1] * scale)), max(1, round(extent[0] * scale))) for extent in extents]
    height = max(size[1] for size in sizes)
    sheet = Image.new("RGB", (WIDTH, HEAD + len(rows) * (height + ROW_TITLE + GAP) + MARGIN - GAP), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, HEAD / 2), title, fill=TEXT, font=_font(19), anchor="lm")
    for r, (who, colour, volume, windows) in enumerate(rows):
        top, left = HEAD + r * (height + ROW_TITLE + GAP), MARGIN
        hounsfield = anatomical(volume.array, volume.geometry)[0]
        for axis, window, size in zip(axes, windows, sizes, strict=True):
            cut = hounsfield.take(cuts[axis], axis=axis)[tuple(side for n, side in enumerate(box) if n != axis)]
            sheet.paste(_tile(cut, size, *WINDOWS[window]), (left, top + ROW_TITLE + (height - size[1]) // 2))
            plane = PLANES[{0: 0, 2: 1, 1: 2}[axis]]
            draw.text((left + size[0], top + ROW_TITLE - 5), f"{plane}, {window.lower()}", fill=MUTED, font=_font(13), anchor="rs")
            left += size[0] + GAP
        draw.text((MARGIN, top + ROW_TITLE - 5), who, fill=colour, font=_font(16), anchor="ls")
    info = PngInfo()
    info.add_text("Description", f"Shows a real scan beside synthetic ones; not for publication. {title}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(path) as part:
        sheet.save(part, format="PNG", pnginfo=info)
    return path


def _cuts(regions):
    """The axial slice that shows most regions, rather in the middle; the sagittal and the coronal slice through the body's centre."""
    present = np.array([len(np.unique(cut)) for cut in regions]) * (1 - 0.4 * np.linspace(-1, 1, len(regions)) ** 2)
    middle = [int(np.mean(np.nonzero((regions > 0).any(axis=others))[0])) for others in ((1, 2), (0, 2), (0, 1))]
    return int(np.argmax(present)), middle[1], middle[2]


def _box(body):
    """The body's bounding box."""
    sides = [np.nonzero(body.any(axis=others))[0] for others in ((1, 2), (0, 2), (0, 1))]
    return tuple(slice(int(side[0]), int(side[-1]) + 1) if len(side) else slice(None) for side in sides)


def _tile(cut, size, window, level):
    """A slice of HU as gray image; interpolated before the window cuts it off, so that borders do not ring."""
    from PIL import Image

    image = Image.fromarray(np.clip(cut, -1024, 3000).astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    gray = (np.asarray(image) - (level - window / 2)) * (255 / window)
    return Image.fromarray(np.clip(np.rint(gray), 0, 255).astype(np.uint8)).convert("RGB")


def _font(size):
    from PIL import ImageFont

    return ImageFont.load_default(size)
