"""A folder of scans to train on."""

import pytest

from CTSynthesisLib.files import write_volume
from CTSynthesisLib.volume import Volume
from Testing.phantom import hounsfield, thorax


@pytest.fixture(scope="module")
def a_folder_of_scans(tmp_path_factory):
    """Two scans without masks: phantoms with noise."""
    folder = tmp_path_factory.mktemp("scans")
    for name, rows in (("one", 80), ("two", 90)):
        labelmap = thorax(shape=(14, rows, 100), spacing=(3.4, 3.4, 4.0))
        write_volume(Volume(hounsfield(labelmap, noise=15), labelmap.geometry), _case(folder, name) / "ct.nrrd")
    return folder


def _case(folder, name):
    (folder / name).mkdir()
    return folder / name
