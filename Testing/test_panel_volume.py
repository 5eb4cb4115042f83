"""The panel's Volume section on the test host: a real run in its own process, and cancel."""

import numpy as np
import pytest
import slicer
import slicer.util

from CTSynthesisLib.worker import volume_job
from Testing.panel_state import events_until, volumes
from Testing.synthesis.models import save_random_anatomy, save_random_model


@pytest.fixture
def a_small_volume(the_panel, tmp_path, monkeypatch):
    """The panel set to the smallest volume by a small renderer with random weights."""
    card, anatomy = save_random_model(tmp_path), save_random_anatomy(tmp_path)
    arguments = volume_job.VolumeJob._arguments
    monkeypatch.setattr(volume_job.VolumeJob, "_arguments", lambda job: [*arguments(job), "--preset", anatomy.path])
    the_panel.panel.parameters.model = card.path
    the_panel.ui.volumeSizeSpinBox.value = 64
    the_panel.ui.volumeCollapsibleButton.collapsed = False
    return the_panel


def test_a_chest_and_its_segmentation_come_into_the_scene(a_small_volume):
    ui = a_small_volume.ui
    ui.volumeButton.click()
    assert ui.volumeButton.text == "Cancel" and ui.volumeProgressBar.visible
    events_until(lambda: not a_small_volume.panel.volume.busy)
    assert "made, with its segmentation" in ui.volumeStatusLabel.text and ui.volumeButton.text == "Make a volume"
    (made,) = volumes()
    (segmentation,) = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    assert made.GetAttribute("CTSynthesis.Synthetic") == "1" and segmentation.GetSegmentation().GetNumberOfSegments() > 50
    left = segmentation.GetSegmentation().GetSegmentIdBySegmentName("lung_left")
    lung = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, left, made)
    hu = slicer.util.arrayFromVolume(made)
    assert hu.shape == (64, 64, 64) and np.median(hu[lung > 0]) < -600


def test_cancel_leaves_the_scene_as_it_was(a_small_volume):
    a_small_volume.ui.volumeButton.click()
    a_small_volume.ui.volumeButton.click()
    events_until(lambda: not a_small_volume.panel.volume.busy)
    assert "cancelled" in a_small_volume.ui.volumeStatusLabel.text and volumes() == []


def test_closing_the_scene_during_a_run_ends_it(a_small_volume):
    ui = a_small_volume.ui
    ui.volumeButton.click()
    assert ui.volumeProgressBar.visible
    slicer.mrmlScene.Clear(False)
    assert not a_small_volume.panel.volume.busy and ui.volumeButton.text == "Make a volume" and not ui.volumeProgressBar.visible
    assert "scene was closed" in ui.volumeStatusLabel.text
