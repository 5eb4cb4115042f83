"""PyTorch, the one thing that 3D Slicer does not bring: asked for at the first Generate, never before, never without consent."""

from __future__ import annotations

import importlib
import importlib.util

import qt
from slicer.i18n import tr as _

from ..errors import SynthesisFailed

TORCH_REQUIREMENT = ">=2.4"


def torch_is_installed() -> bool:
    """Whether the worker will find PyTorch. It runs the Python that belongs to this process; nothing is imported here."""
    importlib.invalidate_caches()
    spec = importlib.util.find_spec("torch")
    return spec is not None and spec.origin is not None  # an empty folder left by a removed version has no origin


def ensure_torch():
    """Install PyTorch through Slicer's PyTorch extension if it is missing, after telling the user what that means and asking.

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
    refused = SynthesisFailed(_("PyTorch was not installed, so nothing was generated; click Generate to be asked again."))
    if not ask_to_install():
        raise refused
    if PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=False, torchVersionRequirement=TORCH_REQUIREMENT) is None:
        raise refused


def ask_to_install() -> bool:
    """Say what will be installed, how large it is and what to do without internet; whether the user wants it."""
    box = qt.QMessageBox()
    box.setIcon(qt.QMessageBox.Question)
    box.setWindowTitle(_("CT Synthesis"))
    box.setText(_("CT Synthesis needs PyTorch, which is not installed yet."))
    box.setInformativeText(
        _(
            "PyTorch will be downloaded from its official package index and installed into 3D Slicer's Python: about 0.3 GB to download"
            " for the CPU, 2 to 3 GB for an NVIDIA graphics card, which is chosen if there is one. This happens once. Nothing else is"
            " downloaded; the models are part of the extension, and no data of yours is sent.\n\n"
            "Without internet: on a computer of the same kind run “pip download torch”, copy the files here, and in 3D Slicer's Python"
            " console run slicer.util.pip_install('--no-index --find-links FOLDER torch')."
        )
    )
    install = box.addButton(_("Install"), qt.QMessageBox.AcceptRole)
    box.setDefaultButton(install)
    box.setEscapeButton(box.addButton(_("Not now"), qt.QMessageBox.RejectRole))
    box.exec_()
    return box.clickedButton() is install or box.clickedButton() == install
