"""Other persons as ceilings: found, moved to their place, and continued where their scan ends."""

import numpy as np
import pytest

from CTSynthesisLib.evaluation.cases import Case
from CTSynthesisLib.evaluation.ceilings import nearest, on_grid_of, place
from CTSynthesisLib.volume import Geometry, LabelMap, Volume
from Testing.evaluation.persons import a_person


def elsewhere(person, shift, slices=slice(None)):
    """The same person, scanned in another place and perhaps not from end to end."""
    matrix = np.eye(4)
    matrix[:3, 3] = shift
    first = slices.start or 0
    shape = person.ct.array[slices].shape
    geometry = person.ct.geometry.crop((first, 0, 0), shape).transformed(matrix)
    regions = LabelMap(person.regions.array[slices].copy(), geometry, person.regions.segments)
    return Case("elsewhere", Volume(person.ct.array[slices].copy(), geometry), regions)


def test_a_person_scanned_elsewhere_is_brought_onto_the_grid():
    person = a_person()
    placed = place(person, elsewhere(person, (37.0, -52.0, 410.0)))
    assert placed.overlap > 0.8
    moved = on_grid_of(person, placed)
    assert moved.ct.geometry is person.ct.geometry
    both = moved.body & person.body
    assert both.sum() > 0.93 * person.body.sum()


def test_where_the_other_scan_ends_its_last_slice_goes_on():
    person = a_person()
    moved = on_grid_of(person, place(person, elsewhere(person, (0.0, 0.0, 100.0), slice(4, 12))))
    assert moved.body.any((1, 2)).all()
    assert (moved.ct.array[0][moved.body[0]] > -1000).mean() > 0.95


def test_the_nearest_is_the_one_with_the_same_regions_in_the_same_places():
    person = a_person()
    large = a_person("large", spacing=(4.4, 4.6, 6.0))
    twin = elsewhere(person, (5.0, 60.0, -33.0))
    assert nearest(person, iter([large, twin])).person is twin
    assert nearest(person, []) is None


def test_the_grid_may_be_finer_than_the_other_scan():
    person = a_person()
    fine = person.ct.geometry.with_spacing((3.0, 3.0, 5.0))
    regions = LabelMap(np.ones(fine.shape, np.uint8), fine, person.regions.segments)
    case = Case("fine", Volume(np.zeros(fine.shape, np.int16), fine), regions)
    moved = on_grid_of(case, place(case, person))
    assert moved.ct.array.shape == fine.shape
    assert isinstance(moved.ct.geometry, Geometry) and moved.ct.array.std() == pytest.approx(person.ct.array.std(), rel=0.3)
