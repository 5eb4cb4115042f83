"""The request: everything that decides what is generated, in one frozen record.

The command line, the panel, the worker and the provenance share it; flags, JSON and node attributes are derived from its fields.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

from ..anatomy import PHASES
from ..errors import UnusableInput

OUTSIDE = ("body", "reference", "air")
DEVICES = ("auto", "cpu", "cuda", "mps")


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
        Hounsfield value for each segment that the user set, by the segment's name or its structure's.
    phase : str
        Contrast phase: plain, arterial or portal venous.
    noise : float or None
        Standard deviation of the image noise in HU; None for the model's default.
    kernel : str or None
        Reconstruction kernel: ``soft``, ``sharp``, or None for the model's default.
    thickness : float or None
        Slice thickness in mm; None for the slice spacing.
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
    thickness: float | None = None
    outside: str = "body"
    device: str = "auto"

    def __post_init__(self):
        for name, allowed in (("phase", PHASES), ("outside", OUTSIDE), ("device", DEVICES), ("kernel", (None, "soft", "sharp"))):
            if getattr(self, name) not in allowed:
                choices = ", ".join(str(value) for value in allowed if value)
                raise UnusableInput(f"'{getattr(self, name)}' is not a {name}; choose one of {choices}.")
        if self.noise is not None and not 0 <= self.noise <= 200:
            raise UnusableInput(f"A noise of {self.noise} HU is outside the usable range; give a value from 0 to 200.")
        if self.thickness is not None and not 0 < self.thickness <= 20:
            raise UnusableInput(f"A slice thickness of {self.thickness} mm is outside the usable range; give a value up to 20.")

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Request:
        values = json.loads(text)
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise UnusableInput(f"The request holds unknown fields ({', '.join(unknown)}); both sides must run the same version.")
        return cls(**values)
