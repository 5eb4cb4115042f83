"""PyTorch, the one thing that 3D Slicer does not bring: asked for at the first run, never before, never without consent."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
import re

from slicer.i18n import tr as _

from ..errors import SynthesisFailed
from . import dialogs

TORCH_AT_LEAST = (2, 4)


class NoTorch(SynthesisFailed):
    """There is no PyTorch to run with; the sentence says what to do, and needs no dialog of its own."""


def torch_is_installed() -> bool:
    """Whether the worker will find PyTorch. It runs the Python that belongs to this process; nothing is imported here."""
    importlib.invalidate_caches()
    spec = importlib.util.find_spec("torch")
    return spec is not None and spec.origin is not None  # an empty folder left by a removed version has no origin


def ensure_torch():
    """Install PyTorch through Slicer's PyTorch extension if it is missing, after telling the user what that means and asking.

    Every run of the panel begins here, and whatever goes wrong is one sentence.

    Raises
    ------
    NoTorch
        If the extension is missing, the user refused, the installation failed, or the version is too old; the sentence says what to do.
    """
    if not torch_is_installed():
        _install()
    _check_version()


def _install():
    try:
        import PyTorchUtils  # the PyTorch extension; it chooses the build that fits the graphics card
    except ModuleNotFoundError as error:
        raise NoTorch(
            _("PyTorch is missing: install the PyTorch extension in the Extensions Manager, restart 3D Slicer and click again.")
        ) from error
    refused = NoTorch(_("PyTorch was not installed, so nothing was made; click again to be asked again."))
    if not ask_to_install():
        raise refused
    requirement = f">={_dotted(TORCH_AT_LEAST)}"
    try:
        installed = PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=False, torchVersionRequirement=requirement)
    except Exception as error:  # pip's, the network's, the disk's: the log has what it said
        logging.exception("CT Synthesis: PyTorch could not be installed")
        raise NoTorch(
            _(
                "PyTorch could not be installed; see that there is internet and disk space, then click again, or install it in the module"
                " PyTorch Utils. The application's log says more."
            )
        ) from error
    if installed is None:
        raise refused


def _check_version():
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:  # a copy that nobody installed says no version; the worker will see
        return
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers < TORCH_AT_LEAST:
        raise NoTorch(
            _(
                "PyTorch {version} is installed, but {needed} or later is needed: uninstall it in the module PyTorch Utils, restart"
                " 3D Slicer, and click again to install a newer one."
            ).format(version=version, needed=_dotted(TORCH_AT_LEAST))
        )


def _dotted(numbers) -> str:
    return ".".join(map(str, numbers))


def ask_to_install() -> bool:
    """Say what will be installed, how large it is and what to do without internet; whether the user wants it."""
    return dialogs.agreed(
        _("CT Synthesis needs PyTorch, which is not installed yet."),
        _(
            "PyTorch will be downloaded from its official package index and installed into 3D Slicer's Python: about 0.3 GB to download"
            " for the CPU, 2 to 3 GB for an NVIDIA graphics card, which is chosen if there is one. This happens once. Nothing else is"
            " downloaded; the models are part of the extension, and no data of yours is sent.\n\n"
            "Without internet: on a computer of the same kind run “pip download torch”, copy the files here, and in 3D Slicer's Python"
            " console run slicer.util.pip_install('--no-index --find-links FOLDER torch')."
        ),
        yes=_("Install"),
        no=_("Not now"),
    )
