"""What the engine says, in the panel's words: its sentences name ways out as the command line has them, where the panel has others."""

from __future__ import annotations

import re

from slicer.i18n import tr as _

# Clauses of the engine's sentences, as regular expressions, and what a user of the panel does instead.
WAYS_OUT = {
    r"insist with --anywhere": _("tick “Also outside the lungs”"),
    r"(click the nodule's middle, or )?give (its|the nodule's) size with --diameter, or its outline with --mask": _(
        "place a point in the nodule's middle, or choose a segmentation of it as the place"
    ),
    r"give the nodule's outline with --mask": _("choose a segmentation of the nodule as the place"),
    r"give I,J,K within it": _("choose a place within it"),
    r"say what it is with a label table \(--labels\), or give its value with --hu '.*?=VALUE'": _(
        "double-click “Understood as” to say what it is, or its HU to give the value"
    ),
    r"were found by `segment`": _("were found automatically"),
    r"resample it to a straight grid first \(--like\)": _("resample it to a straight grid first"),
    r", or leave out --reject-similar": "",
    r"try another --seed": _("try another seed"),
    r"ask for coarser --spacing": _("choose a coarser source volume"),
    r"run the command again with --debug and report what it prints": _("please report it with the application's log"),
    r"install it, or run `make demo` once, which builds a complete environment": _(
        "install it with slicer.util.pip_install in the Python console"
    ),
}
FLAG = r"(?<![\w-])--([a-z][\w-]*)"
TEMPORARY = r"['“]?[^\s'“”]*[/\\]CTSynthesis-[^\s'“”,;]*['”]?"  # what the worker and its jobs call their folders


def said(what) -> str:
    """An error or a sentence of the engine, to be shown in the panel: no flag, no command in backticks, no temporary path."""
    text = str(what)
    for clause, words in WAYS_OUT.items():
        text = re.sub(clause, lambda _match, words=words: words, text)
    text = re.sub(TEMPORARY, _("a temporary file"), text)
    text = re.sub(FLAG, lambda flag: f"“{flag[1]}”", text)  # these two are for what the table lacks
    return re.sub(r"`([^`]*)`", r"“\1”", text)
