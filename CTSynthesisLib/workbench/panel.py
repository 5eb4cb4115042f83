"""The Generate panel of the workbench: what it shows (:class:`PanelState`) and how (:class:`GeneratePanel`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from trame.widgets import client, html
from trame.widgets.vuetify3 import VBtn, VCard, VCardText, VCheckbox, VProgressLinear, VSelect, VSlider, VTable, VTextField
from trame_server.utils.typed_state import TypedState


@dataclass
class PanelState:
    """What the browser shows; the fields are shared with it."""

    structures: list = field(default_factory=list)  # one dict a segment: name, structure, how, hu
    seed: int = 0
    outside: str = "body"
    phase: str = "plain"
    live: bool = False
    running: bool = False
    progress: float = 0.0
    status: str = ""
    problem: str = ""
    report: list = field(default_factory=list)  # one dict a structure: name, expected, measured, spread, off
    can_undo: bool = False
    can_compare: bool = False
    fade: int = 0
    slices: int = 0  # updates of the live preview, for whoever waits for one


class GeneratePanel(VCard):
    """Parameters
    ----------
    actions : object
        With the methods ``press``, ``undo``, ``swap`` and ``export``.
    """

    def __init__(self, actions, **arguments):
        super().__init__(variant="flat", **arguments)
        self.typed = TypedState(self.state, PanelState)
        name = self.typed.name
        outside = [
            {"title": "Synthesised body", "value": "body"},
            {"title": "The CT", "value": "reference"},
            {"title": "Air", "value": "air"},
        ]
        phases = [
            {"title": "Plain", "value": "plain"},
            {"title": "Arterial", "value": "arterial"},
            {"title": "Portal venous", "value": "portal"},
        ]
        with self, VCardText(classes="pa-3"):
            client.Style(".ctsynthesis-table th, .ctsynthesis-table td { padding: 0 6px !important; white-space: nowrap; font-size: 12px }")
            with VTable(
                density="compact", height=190, fixed_header=True, classes="mb-3 ctsynthesis-table", id="ctsynthesis-structures"
            ):
                _head("Segment", "Understood as", "HU")
                with html.Tbody(), html.Tr(v_for=f"s in {name.structures}", key="s.name", title=("s.note",)):
                    html.Td("{{ s.assumed ? '⚠ ' : '' }}{{ s.name }}")
                    html.Td("{{ s.structure }}")
                    html.Td("{{ s.hu }}", classes="text-right")
            with html.Div(classes="d-flex ga-2"):
                VSelect(
                    label="Outside the segments",
                    items=("outside_items", outside),
                    v_model=(name.outside,),
                    density="compact",
                    hide_details=True,
                )
                VSelect(label="Contrast phase", items=("phase_items", phases), v_model=(name.phase,), density="compact", hide_details=True)
            VTextField(
                label="Seed", v_model_number=(name.seed,), type="number", min=0, density="compact", hide_details=True, classes="mt-2"
            )
            VCheckbox(label="Live preview", v_model=(name.live,), density="compact", hide_details=True, id="ctsynthesis-live")
            VBtn(
                f"{{{{ {name.running} ? 'Cancel' : 'Generate' }}}}", click=actions.press, color="primary", block=True,
                id="ctsynthesis-generate", disabled=(f"!!{name.problem}",), title=(f"{name.problem}",),
            )  # fmt: skip
            VProgressLinear(model_value=(f"100 * {name.progress}",), height=6, classes="mt-2", v_show=(name.running,))
            said = f"[{name.problem}, {name.status}].filter(Boolean).join(' ')"
            html.Div(f"{{{{ {said} }}}}", id="ctsynthesis-status", classes="mt-2 text-body-2")
            html.Div(f"{{{{ {name.slices} }}}}", id="ctsynthesis-slices", style="display: none")
            with html.Div(classes="d-flex ga-2 mt-3"):
                VBtn("Undo last", click=actions.undo, disabled=(f"!{name.can_undo}",), size="small", variant="tonal",
                     title="Discard the last result and show what was there before", id="ctsynthesis-undo")  # fmt: skip
                VBtn("Swap", click=actions.swap, disabled=(f"!{name.can_compare}",), size="small", variant="tonal",
                     title="Swap between the result and what was shown before", id="ctsynthesis-swap")  # fmt: skip
                VBtn("Save NRRD", click=actions.export, disabled=(f"!{name.can_undo}",), size="small", variant="tonal",
                     title="Write the result beside the segmentation's file name in the folder where the workbench was started",
                     id="ctsynthesis-export")  # fmt: skip
            VSlider(v_model=(name.fade,), min=0, max=100, step=1, disabled=(f"!{name.can_compare}",), hide_details=True, label="Fade")
            with VTable(
                density="compact", height=240, fixed_header=True, v_if=(f"{name.report}.length",), classes="mt-2 ctsynthesis-table"
            ):
                _head("Structure", "Expected", "Measured", "Spread")
                with html.Tbody(), html.Tr(v_for=f"r in {name.report}", key="r.name", classes=("r.off ? 'font-weight-bold' : ''",)):
                    html.Td("{{ r.off ? '⚠ ' : '' }}{{ r.name }}")
                    for column in ("expected", "measured", "spread"):
                        html.Td(f"{{{{ r.{column} }}}}", classes="text-right")


def _head(*titles):
    with html.Thead(), html.Tr():
        for title in titles:
            html.Th(title)
