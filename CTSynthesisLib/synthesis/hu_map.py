"""The fixed, invertible map between Hounsfield units and network units; its two numbers are stored with each model."""

from __future__ import annotations

from dataclasses import dataclass

LOWEST_HU, HIGHEST_HU = -1024, 3071


@dataclass(frozen=True)
class HUMap:
    """``x = asinh((HU - center) / scale) / gain``: fine steps where soft tissue lies, coarser ones towards air and metal.

    With the defaults soft tissue takes 2.1e-3 units a HU, lung 4.6e-4, and -1024..3071 HU map to -1.02..1.46.
    """

    center: float = 40.0
    scale: float = 200.0
    gain: float = 2.35

    def to_network(self, hu):
        """HU tensor to network units, float32."""
        return ((hu.float() - self.center) / self.scale).asinh() / self.gain

    def to_hu(self, x):
        """Network units to HU, float32, clamped to what int16 CT holds."""
        return (self.center + self.scale * (x.float() * self.gain).sinh()).clamp(LOWEST_HU, HIGHEST_HU)

    def hu_per_unit(self, x):
        """Slope of :meth:`to_hu` at ``x``, in HU a network unit."""
        return self.scale * self.gain * (x.float() * self.gain).cosh()
