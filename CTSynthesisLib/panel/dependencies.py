"""PyTorch, the one thing that 3D Slicer does not bring: asked for at the first Generate, never before, never without consent."""

from __future__ import annotations

import importlib
import importlib.util

from slicer.i18n import tr as _

from ..errors import SynthesisFailed

TORCH_REQUIREMENT = ">=2.4"


def torch_is_installed() -> bool:
    """Whether the worker will find PyTorch. It runs the Python that belongs to this process; nothing is imported here."""
    importlib.invalidate_caches()
    spec = importlib.util.find_spec("torch")
    return spec is not None and spec.origin is not None  # an empty folder left by a removed version has no origin


def ensure_torch():
    """Install PyTorch through Slicer's PyTorch extension if it is missing, after asking the user.

    Raises
    ------
    SynthesisFailed
        If the extension is missing or the user refused; the sentence says what to do.
    """
    if torch_is_installed():
        return
    try:
        import PyTorchUtils  # the PyTorch extension; it chooses the build that fits the graphics card
    except ModuleNotFoundError as error:
        raise SynthesisFailed(
            _("PyTorch is missing: install the PyTorch extension in the Extensions Manager, restart 3D Slicer and click Generate again.")
        ) from error
    installed = PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=True, torchVersionRequirement=TORCH_REQUIREMENT)
    if installed is None:
        raise SynthesisFailed(_("PyTorch was not installed, so nothing was generated; click Generate to be asked again."))
