"""The request: everything that decides what is generated, in one frozen record.

The command line, the panel, the worker and the provenance share it; flags, JSON and node attributes are derived from its fields.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

from ..anatomy import PHASES, named
from ..errors import UnusableInput

INSIDE = ("anatomy", "plain")
OUTSIDE = ("body", "reference", "air")
# structures that may be filled in where the segmentation leaves them open; ``hu`` may name them all the same
FILLED = ("bowel_gas", "lungs", "fat", "soft_tissue", "blood", "bone", "lung_vessels")
DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class Grain:
    """A scan's grain in even soft tissue: its radial noise ``power`` spectrum (HU² mm²) at ``frequency`` (1/mm), and that of the ``change``
    from slice to slice, or None where that is not known."""

    frequency: tuple[float, ...]
    power: tuple[float, ...]
    change: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Request:
    """What to generate from a label map.

    Attributes
    ----------
    model : str
        Name of a model in the store, or the path of a model file.
    seed : int
        Chooses the random texture; the same request gives the same voxels.
    hu : dict
        Hounsfield value for each segment that the user set, by its name, its structure's or a group's, as in bones or left ribs.
    phase : str
        Contrast phase: plain, arterial or portal venous.
    noise : float or None
        Standard deviation of the image noise in HU; None for the model's default.
    kernel : str or None
        Reconstruction kernel: ``soft``, ``sharp``, or None for the model's default.
    sharpness : float or None
        Sharpness of the kernel as a number from 0 to 1.5, as measured in a scan (0.2 very soft, 0.8 sharp); goes before the kernel's word.
    thickness : float or None
        Slice thickness in mm; None for the slice spacing.
    slice_correlation : float or None
        How much the grain of neighbouring slices correlates, from 0 (none) to 1 (the same); None for what the thickness suggests.
    grain : Grain or None
        Noise power spectrum of even soft tissue, as measured in a scan at the pixel size of the CT to be made.
    inside : str
        What the interior of the body holds where no segment says it, and lungs without vessels: plausible ``anatomy`` chosen by the seed,
        or ``plain`` soft tissue.
    outside : str
        What lies outside the segments: a synthesised ``body``, a ``reference`` CT, or ``air``.
    device : str
        Where the network runs.
    """

    model: str = "default"
    seed: int = 0
    hu: dict[str, float] | None = None
    phase: str = "plain"
    noise: float | None = None
    kernel: str | None = None
    sharpness: float | None = None
    thickness: float | None = None
    slice_correlation: float | None = None
    grain: Grain | None = None
    inside: str = "anatomy"
    outside: str = "body"
    device: str = "auto"

    def __post_init__(self):
        words = {"phase": PHASES, "inside": INSIDE, "outside": OUTSIDE, "device": DEVICES, "kernel": (None, "soft", "sharp")}
        for name, allowed in words.items():
            if getattr(self, name) not in allowed:
                choices = ", ".join(str(value) for value in allowed if value)
                raise UnusableInput(f"'{getattr(self, name)}' is not a {name}; choose one of {choices}.")
        if self.noise is not None and not 0 <= self.noise <= 200:
            raise UnusableInput(f"A noise of {self.noise} HU is outside the usable range; give a value from 0 to 200.")
        if self.sharpness is not None and not 0 <= self.sharpness <= 1.5:
            raise UnusableInput(f"A sharpness of {self.sharpness} is outside the usable range; give a value from 0 (soft) to 1.5 (sharp).")
        if self.slice_correlation is not None and not 0 <= self.slice_correlation <= 1:
            raise UnusableInput(f"A slice correlation of {self.slice_correlation} is outside the usable range; give a value from 0 to 1.")
        if self.thickness is not None and not 0 < self.thickness <= 20:
            raise UnusableInput(f"A slice thickness of {self.thickness} mm is outside the usable range; give a value up to 20.")

    @property
    def filled_hu(self) -> dict[str, float]:
        """HU by name of those among :data:`FILLED` that ``hu`` names."""
        return {one.name: value for key, value in (self.hu or {}).items() for one in named(key) if one.name in FILLED}

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Request:
        values = json.loads(text)
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise UnusableInput(f"The request holds unknown fields ({', '.join(unknown)}); both sides must run the same version.")
        if values.get("grain"):
            values["grain"] = Grain(**{name: value and tuple(value) for name, value in values["grain"].items()})
        return cls(**values)
