"""Small files as LIDC and LUNA16 publish them, for tests: an XML with the outlines of some readers, and a CSV with nodules."""

import numpy as np

from CTSynthesisLib.volume import Geometry

UID = "1.2.3.4.5"
GRID = Geometry.from_spacing((12, 512, 512), (0.7, 0.7, 2.5), (170.0, 160.0, -100.0))  # its first voxel lies at RAS (170, 160, -100)


def ring(centre, radius):
    """The chain of pixels (x, y) just outside a disc: those within a pixel of it that do not belong to it, in order."""
    x, y = np.meshgrid(*(np.arange(c - radius - 3, c + radius + 4) for c in centre))
    inside = np.hypot(x - centre[0], y - centre[1]) <= radius
    near = np.zeros_like(inside)
    for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
        near |= np.roll(inside, step, axis)
    chain = np.argwhere(near & ~inside)
    points = [(int(x[tuple(p)]), int(y[tuple(p)])) for p in chain]
    return sorted(points, key=lambda p: np.arctan2(p[1] - centre[1], p[0] - centre[0]))


def disc(centre, radius):
    """Number of pixels of the disc that :func:`ring` runs around."""
    x, y = np.meshgrid(*(np.arange(c - radius - 3, c + radius + 4) for c in centre))
    return int((np.hypot(x - centre[0], y - centre[1]) <= radius).sum())


def roi(k, chain, inclusion="TRUE", z=None):
    z = GRID.origin[2] + GRID.spacing[2] * k if z is None else z
    points = "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in chain)
    return f"<roi><imageZposition>{z:.4f} </imageZposition><inclusion>{inclusion}</inclusion>{points}</roi>"


def nodule(name, *rois, ratings="<characteristics><spiculation>4</spiculation></characteristics>"):
    return f"<unblindedReadNodule><noduleID>{name}</noduleID>{ratings}{''.join(rois)}</unblindedReadNodule>"


def non_nodule(k, x, y):
    z = GRID.origin[2] + GRID.spacing[2] * k
    place = f"<locus><xCoord>{x}</xCoord><yCoord>{y}</yCoord></locus>"
    return f"<nonNodule><nonNoduleID>9</nonNoduleID><imageZposition>{z}</imageZposition>{place}</nonNodule>"


def ball(centre, radius, depth=1):
    """Outlines of the same disc in the slices within ``depth`` of the middle one; ``centre`` is (i, j, k)."""
    return [roi(centre[2] + dk, ring(centre[:2], radius)) for dk in range(-depth, depth + 1)]


def write_xml(path, *sessions, uid=UID, root="LidcReadMessage"):
    """One tuple of nodules and non-nodules for each reader."""
    header = f"<ResponseHeader><SeriesInstanceUid>{uid}</SeriesInstanceUid></ResponseHeader>"
    body = "".join(f"<readingSession>{''.join(session)}</readingSession>" for session in sessions)
    path.write_text(f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} xmlns="http://www.nih.gov">{header}{body}</{root}>', encoding="utf-8")
    return path
