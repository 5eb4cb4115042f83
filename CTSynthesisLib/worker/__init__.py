"""The child process that generates, so that the process that shows things never runs the network.

``client`` is what Slicer's process uses, ``transport`` carries messages and arrays between the two, ``protocol`` says what they
look like, and ``__main__`` is the child: ``python -m CTSynthesisLib.worker``.
"""

from ..synthesis.generate import Cancelled
from .client import PreviewReady, Progress, Similarity, Slice, Worker

__all__ = ["Cancelled", "PreviewReady", "Progress", "Similarity", "Slice", "Worker"]
