"""Fixtures: a real MRML scene (slicer-core), segmentations in it, and for the panel a host with stand-ins for Slicer's widgets."""

import os
import sys
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")  # before anything loads Qt
os.environ["CTSYNTHESIS_HOME"] = "/nonexistent"  # the models of whoever runs the tests are his own
os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before anything loads torch: tiny tensors gain nothing from threads that wait for each other

import numpy as np
import pytest

from Testing.phantom import thorax


@pytest.fixture(scope="session")
def _booted_scene():
    from CTSynthesisLib.headless import boot_scene

    return boot_scene()


@pytest.fixture
def a_scene(_booted_scene):
    """An empty vtkMRMLScene; ``slicer.mrmlScene`` while the test runs."""
    import slicer

    slicer.mrmlScene.Clear(False)
    yield slicer.mrmlScene
    slicer.mrmlScene.Clear(False)


@pytest.fixture
def a_labelmap():
    """A small thorax with six segments on an axial grid."""
    return thorax(shape=(8, 24, 28), spacing=(12.0, 12.0, 15.0))


@pytest.fixture
def an_oblique_labelmap(a_labelmap):
    """The same thorax, turned by 20 and 17 degrees, on anisotropic left-handed axes."""
    from CTSynthesisLib.volume import Geometry, LabelMap

    a, b = np.deg2rad(20), np.deg2rad(17)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    matrix = np.eye(4)
    matrix[:3, :3] = about_z @ about_x @ np.diag([11.3, 12.7, 15.1]) @ np.diag([1, -1, 1])
    matrix[:3, 3] = (33.21, -71.43, 512.9)
    return LabelMap(a_labelmap.array, Geometry(a_labelmap.geometry.shape, matrix), a_labelmap.segments)


@pytest.fixture
def a_segmentation_node(a_scene, a_labelmap):
    """The small thorax as a segmentation node."""
    from CTSynthesisLib.scene import labelmap_to_segmentation

    return labelmap_to_segmentation(a_labelmap, "Thorax")


@pytest.fixture(scope="session")
def slicer_application(_booted_scene):
    """The test host: real scene and real Qt, stand-ins for what only the application has (Testing/host). One for all tests."""
    sys.path.insert(0, str(Path(__file__).parent / "host"))
    import slicer_app

    return slicer_app.start()


@pytest.fixture(scope="session")
def the_module(slicer_application):
    """CTSynthesis.py, loaded as Slicer loads it from the source tree: (Python module, module object)."""
    import slicer_app

    return slicer_app.load_module(Path(__file__).parents[1] / "CTSynthesis" / "CTSynthesis.py")


@pytest.fixture
def the_panel(a_scene, the_module):
    """The module's widget, opened."""
    import slicer_app

    widget = slicer_app.open_panel(the_module[0], "CTSynthesis")
    yield widget
    widget.cleanup()
    widget.parent.deleteLater()
    slicer_app.settle()
