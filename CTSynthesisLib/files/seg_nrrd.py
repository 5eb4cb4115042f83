"""3D Slicer's segmentation file (.seg.nrrd): layers of labels, a name, color and terminology for each segment, and a reference geometry."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from ..errors import UnusableInput
from ..volume import Geometry, LabelMap, Segment
from .codes import format_terminology, parse_terminology
from .flatten import Flattening
from .label_map import smallest_type, whole_numbers
from .nrrd import write_nrrd

_KEY = re.compile(r"^Segment(\d+)_(\w+)$")


def holds_segments(metadata) -> bool:
    return "Segment0_ID" in metadata or "Segment0_Name" in metadata


def segments_from(array, geometry, metadata, path, rank=None):
    """Flatten what :func:`nrrd.read_with_itk` returned for a segmentation file. Returns ``(labelmap, notes)``.

    Overlapping segments lie in layers; files of 3D Slicer before 4.11 hold one segment a layer and no label values. The labels come
    back on the reference image's grid, which is what the user sees in 3D Slicer, also where the file holds only the part that is
    painted on.
    """
    try:
        return _flattened(array, geometry, metadata, path, rank)
    except UnusableInput:
        raise
    except (ValueError, IndexError) as error:
        raise UnusableInput(f"{path} is damaged: its segment fields cannot be understood; save it again.") from error


def _flattened(array, geometry, metadata, path, rank):
    representation = metadata.get("Segmentation_MasterRepresentation", "Binary labelmap")
    if representation != "Binary labelmap":
        raise UnusableInput(f"{path} holds segments as a {representation}; convert it to a binary labelmap in 3D Slicer.")
    layers = array if array.ndim == 4 else array[..., None]
    fields: dict[int, dict[str, str]] = {}
    for key, value in metadata.items():
        if match := _KEY.match(key):
            fields.setdefault(int(match[1]), {})[match[2]] = value
    target, notes = _reference_grid(geometry, metadata)
    source, start = _overlap(geometry, target)
    inside = layers[source]
    if np.count_nonzero(layers) != np.count_nonzero(inside):
        notes += ("Segments reach beyond the reference image; what lies outside it was cut off, as 3D Slicer does on export.",)
    if inside.size:
        inside, more = whole_numbers(inside, path)
        notes += more
        if inside.min() < 0:
            raise UnusableInput(f"{path} is damaged: it holds labels below 0 (down to {inside.min()}); save it again.")
    segments, members, more = _segments(fields, inside.shape[-1], path)
    notes += more
    flat = Flattening(target, segments, rank)
    unclaimed = 0
    for layer, numbers in enumerate(members):
        labels = inside[..., layer]
        if None in numbers:
            numbers, labels = {1: numbers[None]}, labels > 0
        unclaimed += flat.paint_layer(numbers, labels, start)
    if unclaimed:
        notes += (f"Left out because their label is that of no segment: {unclaimed} voxels.",)
    kept = {key: value for key, value in metadata.items() if not _KEY.match(key) and not key.startswith("Segmentation_")}
    labelmap, more = flat.result(kept)
    return labelmap, notes + more


def _segments(fields, layers, path):
    """The segments, for each layer label -> place in them (None -> place where the layer is one segment's and has no label), and notes."""
    segments, members, colorless = [], [{} for _ in range(layers)], []
    for number, field in sorted(fields.items()):
        segment, has_color = _segment(number, field)
        colorless += [] if has_color else [segment.name]
        layer = _whole(field, "Layer", segment.name, path, number)
        if not 0 <= layer < layers:
            raise UnusableInput(f"{path} is damaged: it has no layer {layer}, where {segment.name} should be; save it again.")
        label, others = _whole(field, "LabelValue", segment.name, path), members[layer]
        if others and (label is None or label in others or None in others):
            other = segments[next(iter(others.values())) if label is None else others.get(label, others.get(None))].name
            what = f"the label {label} of '{other}'" if label in others and label is not None else f"no label of its own beside '{other}'"
            raise UnusableInput(f"{path} is damaged: '{segment.name}' has {what} in one layer; write a LabelValue for each segment.")
        others[label] = len(segments)
        segments.append(replace(segment, value=label or 0))
    values = [segment.value for segment in segments if segment.value > 0]
    if len(set(values)) < len(values) or any(None in others for others in members):  # layers count their labels each for themselves
        segments = [replace(segment, value=place) for place, segment in enumerate(segments, start=1)]
    return segments, members, (f"Left out because they are no colors: those of {', '.join(colorless)}.",) if colorless else ()


def _whole(field, key, name, path, missing=None):
    if key not in field:
        return missing
    try:
        return int(field[key])
    except ValueError as error:
        what = f"the {key} of '{name}' is '{field[key]}', which is no whole number"
        raise UnusableInput(f"{path} is damaged: {what}; save it again.") from error


def _segment(number, field):
    """The segment without its value, and whether its color makes sense."""
    tags = dict(tag.split(":", 1) for tag in field.get("Tags", "").split("|") if ":" in tag)
    code, modifier = parse_terminology(tags.get("TerminologyEntry", ""))
    name = field.get("Name") or field.get("ID") or f"Segment_{number + 1}"
    try:
        color = tuple(float(x) for x in field.get("Color", "").split())
    except ValueError:
        color = ()
    if len(color) != 3:
        return Segment(0, name, code=code, modifier=modifier), not field.get("Color")
    return Segment(0, name, code=code, modifier=modifier, color=color), True


def _reference_grid(geometry, metadata):
    """The reference image's grid, in the full precision of the file's own geometry where both lie on one lattice."""
    match = re.search(r"Reference image geometry\|([^|]*)\|", metadata.get("Segmentation_ConversionParameters", ""))
    numbers = [float(x) for x in match[1].split(";") if x.strip()] if match else []
    if len(numbers) != 22:
        return geometry, ()
    matrix, extent = np.reshape(numbers[:16], (4, 4)), np.array(numbers[16:], dtype=int)
    size = extent[1::2] - extent[::2] + 1
    if size.min() < 1:
        return geometry, ()
    to_file = np.linalg.solve(geometry.ijk_to_ras, matrix)
    start = to_file[:3, :3] @ extent[::2] + to_file[:3, 3]
    if np.abs((to_file[:3, :3] - np.eye(3)) @ size).max() > 0.1 or np.abs(start - np.round(start)).max() > 0.1:
        return geometry, ("The segmentation has another grid than its reference image; its own grid was used.",)
    return geometry.crop(np.round(start).astype(int)[::-1], size[::-1]), ()


def _overlap(source: Geometry, target: Geometry):
    """Slices of ``source`` that lie in ``target``, and the voxel (k, j, i) of ``target`` at which they begin."""
    shift = np.round(np.linalg.solve(source.ijk_to_ras, target.ijk_to_ras)[:3, 3]).astype(int)[::-1]  # target's origin in source voxels
    low = np.maximum(shift, 0)
    high = np.maximum(low, np.minimum(np.array(source.shape), shift + target.shape))
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True)), tuple(np.maximum(0, -shift) * (high > low))


def write_seg_nrrd(path, labelmap: LabelMap, metadata: dict[str, str]):
    """Write ``labelmap`` as 3D Slicer writes a segmentation whose segments do not overlap (one layer)."""
    geometry = labelmap.geometry
    extent = "0 {} 0 {} 0 {}".format(*(n - 1 for n in geometry.shape[::-1]))
    for number, segment in enumerate(labelmap.segments):
        color = segment.color or _distinct_color(number)
        tags = f"TerminologyEntry:{format_terminology(segment.code, segment.modifier)}|" if segment.code else ""
        fields = {
            "ID": f"Segment_{segment.label}",
            "Name": segment.name,
            "NameAutoGenerated": 0,
            "Color": "{:.6g} {:.6g} {:.6g}".format(*color),
            "ColorAutoGenerated": int(segment.color is None),
            "Extent": extent,
            "LabelValue": segment.label,
            "Layer": 0,
            "Tags": tags,
        }
        metadata |= {f"Segment{number}_{key}": value for key, value in fields.items()}
    grid = ";".join([repr(float(x)) for x in geometry.ijk_to_ras.ravel()] + extent.split()) + ";"
    metadata |= {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_ConversionParameters": f"Reference image geometry|{grid}|Geometry of the image that the segmentation belongs to.&",
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    write_nrrd(path, smallest_type(labelmap.labels), geometry, metadata)


def _distinct_color(number):
    """Colors that differ from one another: the golden angle around the color wheel."""
    hue = number * 0.61803398875 % 1 * 6
    return tuple(0.35 + 0.55 * min(1.0, max(0.0, abs((hue + shift) % 6 - 3) - 1)) for shift in (0, 4, 2))
