"""The panel's Style section on the test host: what it asks for, a real run in its own process, cancel and refusals."""

import numpy as np
import pytest
import slicer
import slicer.util

from CTSynthesisLib.scene import labelmap_to_segmentation, volume_node_from
from CTSynthesisLib.volume import Volume
from Testing.panel_state import events_until, volumes
from Testing.phantom import hounsfield, thorax

LOOK = {"body": 20, "lung_left": -780, "lung_right": -780, "heart": 180, "aorta": 220, "vertebrae": 350}


@pytest.fixture
def two_scans(a_scene):
    """In the scene: a style scan with its segmentation, and a content with its own."""
    nodes = {}
    for name, values, shape in (("Style", LOOK, (6, 60, 70)), ("Content", None, (5, 56, 64))):
        labelmap = thorax(shape, (4.0, 4.0, 6.0))
        nodes[name] = volume_node_from(Volume(hounsfield(labelmap, values, 15), labelmap.geometry))
        nodes[name].SetName(name)
        nodes[name + " segments"] = labelmap_to_segmentation(labelmap, name + " segments")
    return nodes


def choose(panel, two_scans):
    panel.ui.styleCollapsibleButton.collapsed = False
    panel.ui.segmentationSelector.setCurrentNode(two_scans["Content segments"])
    panel.ui.styleSelector.setCurrentNode(two_scans["Style"])
    panel.ui.styleSegmentationSelector.setCurrentNode(two_scans["Style segments"])
    panel.ui.styleContentSelector.setCurrentNode(two_scans["Content"])


def test_the_button_says_what_is_missing(the_panel, two_scans):
    ui = the_panel.ui
    ui.segmentationSelector.setCurrentNode(None)
    assert not ui.styleButton.enabled and ui.styleButton.toolTip == "Select a CT to take the style from"
    ui.styleSelector.setCurrentNode(two_scans["Style"])
    assert not ui.styleButton.enabled and "segmentation" in ui.styleButton.toolTip
    ui.styleContentSelector.setCurrentNode(two_scans["Content"])
    assert ui.styleButton.enabled and ui.styleButton.text == "Apply style"
    ui.styleStrengthSlider.value = 40
    assert ui.styleStrengthLabel.text == "40 %"


def test_a_ct_is_restyled_into_a_new_volume(the_panel, two_scans):
    choose(the_panel, two_scans)
    ui = the_panel.ui
    ui.styleStructuresEdit.text = "heart"
    before = slicer.util.arrayFromVolume(two_scans["Content"]).copy()
    ui.styleButton.click()
    assert ui.styleButton.text == "Cancel" and ui.styleProgressBar.visible
    events_until(lambda: not the_panel.panel.style.busy)
    assert "made." in ui.styleStatusLabel.text and ui.styleButton.text == "Apply style"
    (made,) = (node for node in volumes() if node.GetName() not in ("Style", "Content"))
    labels = thorax((5, 56, 64), (4.0, 4.0, 6.0)).array
    heart = slicer.util.arrayFromVolume(made)[labels == 4]
    assert np.median(heart) == pytest.approx(180, abs=12) and made.GetAttribute("CTSynthesis.Style")
    assert (slicer.util.arrayFromVolume(two_scans["Content"]) == before).all()


def test_what_is_refused_is_said_and_adds_nothing(the_panel, two_scans):
    choose(the_panel, two_scans)
    the_panel.ui.styleStructuresEdit.text = "spleen"
    the_panel.ui.styleButton.click()
    events_until(lambda: not the_panel.panel.style.busy)
    assert "no structure 'spleen'" in the_panel.ui.styleStatusLabel.text and len(volumes()) == 2


def test_cancel_leaves_the_scene_as_it_was(the_panel, two_scans):
    choose(the_panel, two_scans)
    the_panel.ui.styleButton.click()
    the_panel.ui.styleButton.click()
    events_until(lambda: not the_panel.panel.style.busy)
    assert "cancelled" in the_panel.ui.styleStatusLabel.text and len(volumes()) == 2
    assert the_panel.ui.styleButton.enabled and not the_panel.ui.styleProgressBar.visible


def test_closing_the_scene_during_a_run_ends_it(the_panel, two_scans):
    choose(the_panel, two_scans)
    ui = the_panel.ui
    ui.styleButton.click()
    assert ui.styleProgressBar.visible
    slicer.mrmlScene.Clear(False)
    assert not the_panel.panel.style.busy and ui.styleButton.text == "Apply style" and not ui.styleProgressBar.visible
    assert "scene was closed" in ui.styleStatusLabel.text and not ui.styleButton.enabled
