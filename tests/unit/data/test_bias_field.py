"""N4 on a synthetic volume: two tissues whose values are known, times a smooth field that is known too."""

import numpy as np
import pytest

from prsmed.data.preprocessing import Preprocessing
from prsmed.errors import RequestError
from prsmed.types import SliceRef, SourceImage

SHAPE_IJK = (40, 44, 24)
N4 = {"transform": "N4BiasFieldCorrectiond", "shrink_factor": 2, "iterations": [20, 20, 20], "form": "volume"}
TURN = {"transform": "Orientationd", "axcodes": "LPI", "labels": None, "form": "volume"}
CUT = {"transform": "SliceByAxisd", "form": "volume"}


@pytest.fixture(scope="module")
def phantom():
    """True values, where they are 300, and the volume as seen, stored with its first axis to the right."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, side) for side in SHAPE_IJK), indexing="ij")
    body = x**2 + y**2 + 0.6 * z**2 < 0.7
    true_ijk = np.where(body, np.where(np.sin(9 * x) * np.sin(7 * y) > 0, 300, 200), 0)
    field_ijk = np.exp(0.5 * x - 0.4 * y * z)
    seen = (true_ijk * field_ijk).astype(np.float32)
    return true_ijk == 300, SourceImage(seen, np.diag([1.0, 2.0, 3.0, 1.0]), (1.0, 2.0, 3.0), path="mri.nii.gz")


def _spread(values):
    return values.std() / values.mean()


def test_n4_takes_a_bias_field_away(phantom):
    bright, image = phantom
    assert _spread(image.array[bright]) > 0.15
    slabs = Preprocessing([TURN, N4]).prepare(image, modality="mri").slabs()
    assert _spread(np.concatenate(list(slabs), axis=slabs.axis)[bright]) < 0.05


def test_a_slice_is_divided_by_its_own_part_of_the_field(phantom):
    """The same numbers whether the field is looked up in stored order or after reorientation."""
    _, image = phantom
    prepared = Preprocessing([TURN, N4, CUT]).prepare(image, modality="mri")
    whole = Preprocessing([N4]).prepare(image, modality="mri").slabs()
    corrected_ijk = np.concatenate(list(whole), axis=whole.axis)
    for axis in ("axial", "coronal", "sagittal"):
        shown, geometry = prepared.slice(SliceRef(axis, 9))
        np.testing.assert_allclose(shown[0], geometry.volume.take(corrected_ijk), rtol=1e-4)


def test_nothing_to_correct():
    image = SourceImage(np.zeros((9, 9, 3), np.int16), np.eye(4), (1.0, 1.0, 1.0))
    shown, _ = Preprocessing([TURN, N4, CUT]).prepare(image, modality="mri").slice(SliceRef("axial", 1))
    assert not shown.any()


def test_a_picture_has_no_field_of_a_volume():
    step = {key: value for key, value in N4.items() if key != "form"}
    with pytest.raises(RequestError, match=r'give the step "form": "volume"'):
        Preprocessing([step])(SourceImage(np.zeros((9, 9, 1), np.uint8)), modality="mri")
