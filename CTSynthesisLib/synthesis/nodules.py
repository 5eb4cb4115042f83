"""Lung nodules put into a CT and taken out of it (paper 004's nodule injector and eraser; Jin et al. 2018).

Each nodule is worked on in its own volume of interest, however large the scan; voxels outside it keep their values, bit for bit. What
is painted is made on the scan's own grid: a simple composite (:mod:`nodule_voi`), the network's correction of it, which is made at 1 mm and
brought back, and grain with the local lung's spectrum that lives in the world.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from .. import __version__
from ..errors import UnusableInput
from ..modelstore import ModelCard, load_card, load_into
from ..volume import AIR_HU, LOWEST_HU, Geometry, LabelMap, Segment, Volume, reorder, without_padding
from . import nodule_masked
from . import nodule_voi as voi_
from .nodule_places import check_place
from .nodule_shape import Nodule

INJECTOR, ERASER = "nodule_injector", "nodule_eraser"  # those that ship
NODULE_CODE = ("SCT", "27925004", "Nodule")
NAMES = {"solid": "nodule", "part-solid": "part-solid nodule", "ground-glass": "ground-glass nodule"}
COLORS = {"solid": (0.95, 0.55, 0.15), "part-solid": (0.95, 0.75, 0.25), "ground-glass": (0.75, 0.85, 0.35)}
MOST_SHIFTED = 150.0  # HU, by which the mean of what is painted is set right
VESSEL_HU, PAINTED_VESSEL_HU = 200.0, 80.0  # above the lung, in a scan and in what is painted without its grain; not taken for it
SHELL_MM = 10.0  # around what is erased: the lung whose spread it gets
SOFT_TISSUE_HU = (-150.0, 250.0)  # with its noise
DARKEST = 0.3  # percentile of the lung around; what is painted is no darker
LARGEST_ERASED_MM = 60.0
SEEN_THROUGH_HU = (-500.0, -350.0)  # a nodule's median, up to which what shows through it is kept, and from which on it is taken for solid
LEAST_SHARE = 5e-4  # of a nodule in a voxel that is written: less changes it by no HU, so there is no step where painting ends


@dataclass(frozen=True)
class Made:
    """A CT with nodules put in or taken out.

    ``segmentation`` holds each nodule as a segment of its own (what was erased, where some were); ``notes`` are sentences for the user.
    """

    volume: Volume
    segmentation: LabelMap
    notes: tuple[str, ...]
    seconds: tuple[float, ...]  # for each nodule


def inject(volume: Volume, placed: list[tuple[Nodule, tuple[float, float, float]]], labels: np.ndarray | None, *, seed: int = 0,
           injector: str = INJECTOR, progress: Callable[[float, str], None] | None = None) -> Made:  # fmt: skip
    """``volume`` with nodules.

    Parameters
    ----------
    placed : list of (Nodule, (k, j, i))
        Centres in voxels; fractions too.
    labels : uint8 array (k, j, i) or None
        The scan's regions (:func:`nodule_places.lungs_of`): nodules lie in lung and leave walls as they are. None: anywhere.
    seed : int
        Of the grain; each nodule has its own for its shape.

    Raises
    ------
    UnusableInput
        If a nodule's place lies outside the volume or, given ``labels``, outside the lungs, or the volume is too small for it.
    """
    model = load(injector, INJECTOR, nodule_masked.KIND)
    scan = _Scan(volume, labels)
    mask, segments, notes, seconds, facts = np.zeros(volume.array.shape, np.uint8), [], [], [], []
    _check(volume, placed, labels)
    for number, (nodule, at) in enumerate(placed, start=1):
        if progress:
            progress((number - 1) / len(placed), f"nodule {number} of {len(placed)}")
        started = time.perf_counter()
        centre = scan.turned(at)
        notes += _warnings(nodule, volume.geometry)
        fact, name = asdict(nodule), NAMES[nodule.kind]
        if model.card.kind == nodule_masked.KIND:
            occupied, sentences = _put_in_unseen(scan, model, centre)
            size = (6 * float(occupied[1].sum()) * np.prod(scan.spacing) / np.pi) ** (1 / 3)
            fact, name = {"diameter_mm": round(float(size), 1), "kind": "as drawn", "edge": "as drawn"}, NAMES["solid"]
        else:
            occupied, sentences = _put_in(scan, model, nodule, centre, seed + 7919 * number)
        notes += sentences
        scan.write_labels(mask, occupied, number)
        segments.append(Segment(number, f"{name} {number}", NODULE_CODE, color=COLORS[nodule.kind]))
        facts.append(fact | {"at_ijk": [round(float(a), 2) for a in at[::-1]]})
        seconds.append(time.perf_counter() - started)
    return _made(volume, scan, mask, segments, notes, seconds, model.card, "injected", facts, seed)


def erase(volume: Volume, masks: list[np.ndarray], labels: np.ndarray | None, *, seed: int = 0, eraser: str = ERASER,
          progress: Callable[[float, str], None] | None = None) -> Made:  # fmt: skip
    """``volume`` with healthy lung in place of each of the ``masks`` (bool, k, j, i); see :func:`inject`.

    Raises
    ------
    UnusableInput
        If a mask is empty or wider than 60 mm.
    """
    model = load(eraser, ERASER)
    scan = _Scan(volume, labels)
    marked, segments, notes, seconds, facts = np.zeros(volume.array.shape, np.uint8), [], [], [], []
    for number, mask in enumerate(masks, start=1):
        if progress:
            progress((number - 1) / len(masks), f"nodule {number} of {len(masks)}")
        started = time.perf_counter()
        where = np.argwhere(mask)
        if not len(where):
            raise UnusableInput("The mask is empty: no voxel of this volume is marked as nodule; paint or load one.")
        extent = (np.ptp(where, axis=0) + 1) * volume.geometry.spacing[::-1]
        if extent.max() > LARGEST_ERASED_MM:
            raise UnusableInput(
                f"The mask is {extent.max():.0f} mm wide; nodules up to {LARGEST_ERASED_MM:.0f} mm can be erased, so mark one at a time."
            )
        centre = scan.turned(where.min(0) + np.ptp(where, axis=0) / 2)
        _take_out(scan, model, scan.view(mask), centre, float(extent.max()) / 2, seed + 7919 * number)
        marked[mask] = min(number, 255)
        segments.append(Segment(min(number, 255), f"erased nodule {number}", color=(0.4, 0.7, 0.9)))
        ijk = where.mean(0)[::-1]
        facts.append({"at_ijk": [round(float(a), 2) for a in ijk], "ml": round(len(where) * volume.geometry.voxel_ml, 3)})
        seconds.append(time.perf_counter() - started)
    return _made(volume, scan, marked, segments[:255], notes, seconds, model.card, "erased", facts, seed)


# ------------------------------------------------------------------------------------------------------------------- one nodule


def _put_in(scan: _Scan, model: Model, nodule: Nodule, centre, seed):
    """Paint one nodule into the scan; returns its (low, mask) and sentences."""
    voi = voi_.voi_at(scan.hu, scan.spacing, centre, voi_.side_for(nodule.reach_mm))
    inside, healthy = scan.regions(voi)
    rendered = voi_.nodule_in(voi, nodule)
    whole = rendered.occupancy.sum()
    rendered = voi_.Rendered(rendered.occupancy * inside, rendered.mask & inside, rendered.hu)
    notes = []
    left = rendered.occupancy.sum() / max(whole, 1e-6)
    if left < 0.95:
        size = nodule.diameter_mm * left ** (1 / 3)
        notes.append(f"The part of the {nodule.diameter_mm:g} mm nodule that lies outside the lung was left out; {size:.1f} mm remain.")
    base = voi_.base_of(voi, healthy & ~rendered.mask, rendered.mask)
    if nodule.kind == "ground-glass" and base > nodule.mean_hu - 60:
        notes.append(f"The lung here has {base:.0f} HU, hardly less than ground glass ({nodule.mean_hu:.0f} HU); it will hardly show.")
    spacing = voi.native.spacing
    share, occupancy = (voi_.smeared(a, spacing) for a in (voi_.opacity(rendered, base), rendered.occupancy))
    texture = voi_.texture(voi, healthy & ~rendered.mask)
    grain = voi_.grain(texture, voi.hu.shape, seed, scan.lattice + voi.start)
    correction, log_gain, _ = model(voi_.injector_inputs(voi, rendered, share, healthy, inside, grain, scan.noise, texture))
    painted = voi_.composite(voi.hu, share) + occupancy * voi.to_native(correction)
    amount = voi_.grain_inside(share, occupancy, scan.noise, texture.spread)
    gain = np.exp(voi.to_native(log_gain))  # where grain is stronger or weaker; in the mean over the nodule it is the scan's
    painted = painted + amount * gain / np.average(gain, weights=occupancy + 1e-9) * grain
    core = (rendered.occupancy > 0.9) & (voi.hu < base + VESSEL_HU)
    if core.sum() >= 4:  # the mean is the type's
        shift = float((rendered.hu - painted)[core].mean() / occupancy[core].mean())
        painted = painted + occupancy * np.clip(shift, -MOST_SHIFTED, MOST_SHIFTED)
    scan.write(voi, painted, occupancy > LEAST_SHARE)
    return (voi.start, rendered.mask), notes


def _put_in_unseen(scan: _Scan, model: nodule_masked.MaskedInjector, centre):
    """The same by a network that was told nothing but the place; its noise, too, is its own."""
    voi = voi_.voi_at(scan.hu, scan.spacing, centre, nodule_masked.SIDE)
    hu, share, mask = nodule_masked.paint(model, voi, scan.regions(voi)[0])
    scan.write(voi, hu, share > LEAST_SHARE)
    notes = ["This injector chooses size, kind and edge itself: what was asked for was not heeded."]
    return (voi.start, mask), notes if mask.any() else [*notes, "It drew nothing here that stands out from the lung."]


def _take_out(scan: _Scan, model: Model, mask, centre, reach, seed):
    voi = voi_.voi_at(scan.hu, scan.spacing, centre, voi_.side_for(reach))
    inside, healthy = scan.regions(voi)
    mask = voi_.cut(mask, voi.start, voi.hu.shape)
    spacing = voi.native.spacing
    near = voi_.spread(mask, spacing, 1.01 * max(1.5, *spacing)) > 0
    base = voi_.base_of(voi, healthy & ~near, mask)
    inside = inside | mask | voi_.thin(~inside & ~mask, spacing)  # what is left of its rim at the chest wall goes too, the wall stays
    rim = near & (voi_.gaussian(voi.hu, spacing, 0.5) > base + 100) & inside  # which the nodule fills in part
    where = voi_.spread(mask | rim, spacing, voi_.RING_MM) * inside
    healthy = healthy & (where == 0)
    grain = voi_.borrowed(scan.hu, scan.labels, spacing, voi, where, np.random.default_rng((seed, 4)))
    if grain is None:
        texture = voi_.texture(voi, healthy)
        grain = texture.spread * voi_.grain(texture, voi.hu.shape, seed, scan.lattice + voi.start)
    x = voi_.eraser_inputs(voi, voi_.gaussian(mask, spacing, 0.4), where, healthy, grain)
    correction, log_gain, through = model(x)
    filled = voi_.filled(voi, where, healthy)
    glass, solid = SEEN_THROUGH_HU
    kept = voi.to_native(through) * np.clip((solid - np.median(voi.hu[mask])) / (solid - glass), 0, 1)
    correction = where * (voi.to_native(correction) + kept * (voi.hu - filled))
    even = mask & (correction < PAINTED_VESSEL_HU)
    plain = filled + correction - where * (correction[even].mean() if even.any() else 0)  # the level is known
    grain = where * np.exp(voi.to_native(log_gain)) * grain
    painted = plain + _strength(voi, plain, grain, mask, healthy & (where == 0)) * grain
    darkest = np.percentile(voi.hu[healthy], DARKEST) if healthy.any() else -1000.0
    scan.write(voi, np.maximum(painted, np.minimum(darkest, voi.hu)), where > 0)


def _strength(voi, plain, grain, mask, healthy) -> float:
    """What the grain is multiplied by, so that the lung painted spreads as that around it does."""
    shell = healthy & (voi_.spread(mask, voi.native.spacing, SHELL_MM + voi_.RING_MM) > 0)
    if shell.sum() < 200:
        return 1.0
    core = mask & (plain < np.median(voi.hu[shell]) + PAINTED_VESSEL_HU)
    if core.sum() < 20:
        return 1.0
    wanted = float(voi.hu[shell].var())
    a, b = plain[core] - plain[core].mean(), grain[core] - grain[core].mean()
    square, product, rest = float((b * b).mean()), float((a * b).mean()), float((a * a).mean()) - wanted
    inside = product**2 - square * rest
    return float(np.clip((-product + np.sqrt(max(inside, 0))) / max(square, 1e-6), 0.3, 2.5))


class _Scan:
    """The scan on anatomical axes while nodules are put in or taken out: its voxels are written, everything else is looked up."""

    def __init__(self, volume: Volume, labels):
        self._axes, self._flips = volume.geometry.anatomical_axes
        self._original, self._result = volume.array, without_padding(volume.array)
        self.hu = self.view(self._result)
        geometry = volume.geometry.reordered(self._axes, self._flips)
        self.spacing, self.lattice = geometry.spacing, np.array(geometry.lattice_origin())
        self.labels = None if labels is None else self.view(labels)
        some = self.hu[:: max(1, len(self.hu) // 40)]  # slices enough to read the noise from
        self.noise = voi_.noise_of(some, (some > SOFT_TISSUE_HU[0]) & (some < SOFT_TISSUE_HU[1]))

    @property
    def result(self):
        """The voxels as they are now; padding that nothing was written over is as it was."""
        return np.where((self._original < LOWEST_HU) & (self._result == AIR_HU), self._original, self._result)

    def view(self, array):
        return reorder(array, self._axes, self._flips)

    def turned(self, at):
        """Voxel (k, j, i) of the scan on these axes."""
        at = np.asarray(at, float)[list(self._axes)]
        return np.where(self._flips, np.array(self.hu.shape) - 1 - at, at)

    def regions(self, voi):
        """Where nodules may lie, and where there is lung without vessels (bool)."""
        return voi_.lung_in(None if self.labels is None else voi_.cut(self.labels, voi.start, voi.hu.shape), voi.hu)

    def write(self, voi, hu, where):
        target, source = _overlap(voi.start, hu.shape, self.hu.shape)
        there = where[source]
        values = np.clip(np.rint(hu[source][there]), -1024, 3071)
        self.hu[target][there] = values.astype(self.hu.dtype)

    def write_labels(self, mask, occupied, number):
        start, inside = occupied
        target, source = _overlap(start, inside.shape, self.hu.shape)
        self.view(mask)[target][inside[source]] = number


def _overlap(start, shape, of):
    """Slices of a volume of shape ``of``, and of the box at ``start``, where both are."""
    begin = np.maximum(start, 0)
    end = np.minimum(np.add(start, shape), of)
    return tuple(map(slice, begin, end)), tuple(slice(b - s, e - s) for s, b, e in zip(start, begin, end, strict=True))


def _check(volume, placed, labels):
    size = np.array(volume.array.shape) * volume.geometry.spacing[::-1]
    for nodule, at in placed:
        if not all(-0.5 <= a < n - 0.5 for a, n in zip(at, volume.array.shape, strict=True)) or labels is not None:
            check_place(np.zeros(volume.array.shape, np.uint8) if labels is None else labels, volume.geometry.spacing, at)
        if sorted(size)[1] < nodule.diameter_mm:  # a few slices show a section of it
            raise UnusableInput(
                f"The volume is only {sorted(size)[1]:.0f} mm wide, too small for a nodule of {nodule.diameter_mm:g} mm; "
                "choose a larger volume or a smaller nodule."
            )


def _warnings(nodule: Nodule, geometry: Geometry) -> list[str]:
    widest, depth = geometry.spacing.max(), float((np.array(geometry.shape[::-1]) * geometry.spacing).min())
    size = f"a nodule of {nodule.diameter_mm:g} mm"
    if depth < nodule.diameter_mm:
        return [f"The volume is only {depth:.3g} mm deep, so it shows but a section of {size}."]
    if widest <= nodule.diameter_mm / 2:
        return []
    shown = max(1, round(nodule.diameter_mm / widest))
    return [f"Slices lie {widest:.3g} mm apart: {size} shows in {shown} of them, blurred by their thickness."]


def _made(volume, scan, mask, segments, notes, seconds, card, what, facts, seed) -> Made:
    known = json.loads(volume.metadata.get("CTSynthesis.Nodules", "[]"))
    provenance = {
        "CTSynthesis.Synthetic": "1",
        "CTSynthesis.Version": __version__,
        "CTSynthesis.Nodules": json.dumps([*known, {what: facts, "seed": seed, "model": card.name, "version": card.version,
                                                    "sha256": card.sha256}]),
    }  # fmt: skip
    result = Volume(scan.result, volume.geometry, volume.metadata | provenance)
    segmentation = LabelMap(mask, volume.geometry, tuple(segments), provenance)
    return Made(result, segmentation, tuple(dict.fromkeys(notes)), tuple(seconds))


# ------------------------------------------------------------------------------------------------------------------- the networks


class Model:
    """A network that is called with its inputs (5, D, H, W) and answers (D, H, W): correction in HU, log gain of the grain, and how much
    of what is visible is kept."""

    def __init__(self, card: ModelCard, device: str = "cpu"):
        import torch

        from ..networks.nodule_unet import NoduleUNet, NoduleUNetConfig
        from .mask_cgan import compute_dtype

        self.card, self.device, self.dtype = card, device, compute_dtype(device)
        self.network = NoduleUNet(NoduleUNetConfig(**card.settings))
        load_into(self.network, card)
        self.network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last_3d)

    def __call__(self, x):
        import torch

        from .mask_cgan import autocast

        with torch.inference_mode(), autocast(self.device, self.dtype):
            x = x.to(self.device)[None]
            correction, *others = self.network(x.contiguous(memory_format=torch.channels_last_3d))
            answer = correction * x[:, 1] * voi_.UNIT_HU, *others
        return tuple(one[0].float().cpu().numpy() for one in answer)


_warm: dict[str, Model | nodule_masked.MaskedInjector] = {}


def load(name: str, *kinds: str) -> Model | nodule_masked.MaskedInjector:
    """The model of that name or file, loaded once a process.

    Raises
    ------
    UnusableInput
        If it is not of one of the ``kinds``.
    """
    card = load_card(name)
    if kinds and card.kind not in kinds:
        raise UnusableInput(f"'{name}' is a model for something else ({card.kind}); name one of kind {' or '.join(kinds)}.")
    key = card.path + card.sha256
    if key not in _warm:
        _warm[key] = nodule_masked.MaskedInjector(card) if card.kind == nodule_masked.KIND else Model(card)
    return _warm[key]
