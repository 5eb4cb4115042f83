"""Pictures of a training: curves of the log (paper 000, figures 2 and 3) and the strip of samples at iterations (figure 5)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from ..files.beside import written_beside

SIZE = (720, 420)  # pixels of one chart
SCALE = 2  # charts are drawn larger and then reduced, which smooths their lines
INK, GRID = (60, 60, 60), (225, 225, 225)
LIGHT, BLUE = (168, 205, 240), (20, 90, 170)
WINDOW = (-160.0, 240.0)  # soft tissue, HU
PALETTE = np.array(
    [(0, 0, 0), (220, 60, 60), (70, 120, 220), (240, 150, 60), (90, 190, 210), (170, 110, 60), (250, 210, 90), (150, 90, 190)], np.uint8
)


def draw_loss_curves(columns: dict[str, list[float]], path: Path) -> None:
    """Generator loss (left) and discriminator loss (right) of the columns of a log, as figure 2."""
    _draw([("generator loss", "loss_G"), ("discriminator loss", "loss_D")], columns, path)


def draw_accuracy_curves(columns: dict[str, list[float]], path: Path) -> None:
    """The discriminator's accuracy on real (left) and on generated pairs (right), as figure 3."""
    _draw([("accuracy on real pairs", "accuracy_real"), ("accuracy on generated pairs", "accuracy_fake")], columns, path, (0.0, 1.0))


def moving_average(values, smoothing: float = 0.95) -> np.ndarray:
    """Exponential moving average; the start is not drawn towards zero."""
    averages, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = smoothing * total + (1 - smoothing) * value, smoothing * weight + 1 - smoothing
        averages.append(total / weight)
    return np.array(averages)


def draw_strip(labels: torch.Tensor, columns: dict[str, torch.Tensor], path: Path) -> None:
    """One row a mask: the mask in colors, then each column's images in a soft-tissue window (-160 to 240 HU).

    Parameters
    ----------
    labels : uint8 tensor (n, size, size)
    columns : dict
        Title → images (n, size, size) in HU.
    """
    from PIL import Image, ImageDraw

    count, size = len(labels), labels.shape[-1]
    gap, header = 6, 26
    sheet = Image.new("RGB", ((len(columns) + 1) * (size + gap) - gap, header + count * (size + gap) - gap), "white")
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(["mask", *columns]):
        left = column * (size + gap)
        pen.text((left + size / 2, header / 2), title, INK, _font(15), anchor="mm")
        for row in range(count):
            if column == 0:
                pixels = PALETTE[labels[row].numpy() % len(PALETTE)]
            else:
                low, high = WINDOW
                pixels = ((columns[title][row].numpy() - low) / (high - low) * 255).clip(0, 255).astype(np.uint8)
            sheet.paste(Image.fromarray(pixels).convert("RGB"), (left, header + row * (size + gap)))
    _save(sheet, path)


def _draw(charts, columns, path, limits=None):
    """Charts side by side; none of a log that has no line yet."""
    from PIL import Image

    if not columns["iteration"]:
        return
    sheet = Image.new("RGB", (SIZE[0] * len(charts), SIZE[1]), "white")
    for n, (title, name) in enumerate(charts):
        sheet.paste(_chart(title, columns["iteration"], columns[name], limits), (n * SIZE[0], 0))
    _save(sheet, path)


def _chart(title: str, iterations, values, limits):
    """One chart: every value in light blue, their exponential moving average in blue."""
    from PIL import Image, ImageDraw

    width, height = (SCALE * side for side in SIZE)
    left, top, right, bottom = SCALE * 64, SCALE * 40, width - SCALE * 24, height - SCALE * 48
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    low, high = limits or _limits(values)
    first, last = iterations[0], max(iterations[-1], iterations[0] + 1)

    def place(iteration, value):
        x = left + (iteration - first) / (last - first) * (right - left)
        return x, bottom - (min(max(value, low), high) - low) / (high - low) * (bottom - top)

    pen.text(((left + right) / 2, top / 2), title, INK, _font(16 * SCALE), anchor="mm")
    for value in _ticks(low, high):
        pen.line([(left, place(first, value)[1]), (right, place(first, value)[1])], GRID, SCALE)
        pen.text((left - 6 * SCALE, place(first, value)[1]), f"{value:g}", INK, _font(12 * SCALE), anchor="rm")
    for iteration in _ticks(first, last):
        pen.text((place(iteration, low)[0], bottom + 14 * SCALE), f"{iteration:g}", INK, _font(12 * SCALE), anchor="mm")
    pen.text(((left + right) / 2, bottom + 34 * SCALE), "iteration", INK, _font(12 * SCALE), anchor="mm")
    if len(values) > 1:
        pen.line([place(*point) for point in zip(iterations, values, strict=True)], LIGHT, SCALE)
        pen.line([place(*point) for point in zip(iterations, moving_average(values), strict=True)], BLUE, 2 * SCALE, joint="curve")
    pen.rectangle([left, top, right, bottom], outline=INK, width=SCALE)
    return image.resize(SIZE, Image.Resampling.LANCZOS)


def _limits(values) -> tuple[float, float]:
    """From zero, or from the lowest where there are negative values, to the highest, with a margin of a twentieth.

    The first few iterations of a GAN are far outside the rest: percentiles keep the curve readable.
    """
    low, high = (float(limit) for limit in np.percentile(values, (0.5, 99.5)))
    low = min(low, 0.0)
    margin = 0.05 * (high - low) or abs(high) or 1.0
    return low - margin * (low < 0), high + margin


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers from ``low`` to ``high``."""
    step = 10 ** math.floor(math.log10((high - low) / 2))
    step = next(step * part for part in (0.1, 0.2, 0.5, 1, 2, 5) if (high - low) / (step * part) <= 6)
    return [round(n * step, 10) for n in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def _font(size: int):
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _save(image, path: Path):
    with written_beside(path) as part:
        image.save(part, format="PNG", optimize=True)
