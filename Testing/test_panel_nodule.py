"""The panel's Nodule section on the test host: a real run in its own process, what it adds to the scene, cancel and refusals."""

import numpy as np
import pytest
import slicer
import slicer.util

from CTSynthesisLib.scene import volume_node_from
from Testing.nodule_chest import chest_and_lungs, in_the_lung
from Testing.panel_state import events_until


@pytest.fixture
def a_ct(a_scene):
    """``(volume node, a markups node with a point amid the lung)``."""
    volume, labels = chest_and_lungs()
    node = volume_node_from(volume, kind="Chest")
    points = a_scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Places")
    points.AddControlPoint(*(volume.geometry.ijk_to_ras @ [*in_the_lung(labels)[::-1], 1])[:3])
    return node, points


def names(kind):
    return [node.GetName() for node in slicer.util.getNodesByClass(kind)]


def test_the_buttons_say_what_is_missing(the_panel, a_ct):
    ui = the_panel.ui
    assert not ui.noduleInjectButton.enabled and ui.noduleEraseButton.toolTip == "Select the CT to work on"
    ui.noduleVolumeSelector.setCurrentNode(a_ct[0])
    assert ui.noduleInjectButton.enabled and ui.noduleEraseButton.enabled


def test_a_nodule_is_put_in_as_a_new_volume_and_a_segment(the_panel, a_ct):
    ui, (ct, points) = the_panel.ui, a_ct
    before = slicer.util.arrayFromVolume(ct).copy()
    ui.noduleCollapsibleButton.collapsed = False
    ui.noduleVolumeSelector.setCurrentNode(ct)
    ui.nodulePlaceSelector.setCurrentNode(points)
    ui.noduleDiameterSpinBox.value = 12
    ui.noduleInjectButton.click()
    assert ui.noduleInjectButton.text == "Cancel" and ui.noduleProgressBar.visible and not ui.noduleEraseButton.enabled
    ui.noduleCollapsibleButton.collapsed = True
    events_until(lambda: not the_panel.panel.nodule.busy)
    ui.noduleCollapsibleButton.collapsed = False  # the bar has gone meanwhile
    assert not ui.noduleProgressBar.visible
    assert "as segments in" in ui.noduleStatusLabel.text and ui.noduleInjectButton.text == "Put in"
    made = slicer.util.getNode("Chest with nodules")
    changed = slicer.util.arrayFromVolume(made) != before
    assert 0 < changed.mean() < 0.02 and made.GetAttribute("CTSynthesis.Nodules")
    assert names("vtkMRMLSegmentationNode") == ["Nodules of Chest with nodules"]
    assert (slicer.util.arrayFromVolume(ct) == before).all()

    ui.noduleVolumeSelector.setCurrentNode(made)
    ui.noduleEraseButton.click()
    events_until(lambda: not the_panel.panel.nodule.busy)
    cleared = slicer.util.arrayFromVolume(slicer.util.getNode("Chest with nodules without nodules"))
    assert np.median(cleared[changed]) < -780


def test_what_is_refused_is_said_and_a_cancelled_run_adds_nothing(the_panel, a_ct):
    ui, (ct, points) = the_panel.ui, a_ct
    ui.noduleVolumeSelector.setCurrentNode(ct)
    ui.nodulePlaceSelector.setCurrentNode(points)
    points.SetNthControlPointPosition(0, 0, 0, 5000)
    ui.noduleInjectButton.click()
    events_until(lambda: not the_panel.panel.nodule.busy)
    assert "outside the volume" in ui.noduleStatusLabel.text
    points.RemoveAllControlPoints()
    ui.noduleInjectButton.click()
    assert "holds no point" in ui.noduleStatusLabel.text and not the_panel.panel.nodule.busy
    ui.noduleRandomSpinBox.value = 2
    ui.noduleInjectButton.click()
    ui.noduleInjectButton.click()
    events_until(lambda: not the_panel.panel.nodule.busy)
    assert "cancelled" in ui.noduleStatusLabel.text and names("vtkMRMLScalarVolumeNode") == ["Chest"]


def test_closing_the_scene_during_a_run_ends_it(the_panel, a_ct):
    ui, (ct, points) = the_panel.ui, a_ct
    ui.noduleCollapsibleButton.collapsed = False
    ui.noduleVolumeSelector.setCurrentNode(ct)
    ui.nodulePlaceSelector.setCurrentNode(points)
    ui.noduleInjectButton.click()
    assert ui.noduleProgressBar.visible
    slicer.mrmlScene.Clear(False)
    assert not the_panel.panel.nodule.busy and ui.noduleInjectButton.text == "Put in" and not ui.noduleProgressBar.visible
    assert "scene was closed" in ui.noduleStatusLabel.text and not ui.noduleInjectButton.enabled


def test_without_points_the_place_is_where_the_slice_views_meet(the_panel, a_ct):
    from CTSynthesisLib import views

    ui, (ct, _points) = the_panel.ui, a_ct
    ui.noduleVolumeSelector.setCurrentNode(ct)
    ui.noduleInjectButton.click()
    assert "meet in no point" in ui.noduleStatusLabel.text and not the_panel.panel.nodule.busy
    for name, orientation, position in (("Red", "Axial", (0, 0, 3)), ("Yellow", "Sagittal", (-7, 0, 0)), ("Green", "Coronal", (0, 5, 0))):
        view = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceNode", name)
        getattr(view, f"SetOrientationTo{orientation}")()
        view.JumpSliceByCentering(*position)
    assert views.crossing() == pytest.approx((-7, 5, 3))
