"""CTSynthesis: organ segmentations in, synthetic CT out.

Imports run one way: ``panel`` → ``scene``, ``worker`` → ``synthesis`` → ``networks``, ``modelstore`` → ``anatomy``, ``volume``;
``training`` and ``evaluation`` use ``synthesis`` and ``networks``; ``cli`` may use all. The engine (all but ``scene``, ``panel``
and ``workbench``) imports neither slicer, vtk nor qt, and torch is imported only inside the functions and modules that compute with it.
"""

from pathlib import Path

__version__ = "0.1.0"

RESOURCES = Path(__file__).resolve().parents[1] / "Resources"
