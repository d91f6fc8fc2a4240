"""The patient's side in the displayed sentence does not depend on how the array is stored, or on how it was sliced.

What is expected comes from the voxels' own coordinates in the patient (RAS: x to the right, y to the front, z to the
head), never from a picture.
"""

from collections.abc import Iterator
from itertools import permutations, product

import numpy as np
import pytest

from prsmed.data.readers import read_image, read_mask
from prsmed.data.slicing import volume_frame
from prsmed.data.writers.nifti import write_nifti
from prsmed.geometry import Geometry
from prsmed.samples import findings_of
from prsmed.text.parse import parse_position
from prsmed.text.templates import rule_text
from prsmed.types import SLICE_AXES, Finding, MaskRef, SliceRef, SourceImage

SHAPE_IJK = (20, 22, 24)
AFFINE = np.array([[-1.0, 0, 0, 7], [0, 2.0, 0, -11], [0, 0, 3.0, 13], [0, 0, 0, 1]])
OCTANTS = list(product((-0.5, 0.5), repeat=3))
"""Where a lesion lies, right, front and head, in units of half the volume, from its middle."""


def offsets_ras_mm(affine: np.ndarray, shape_ijk: tuple[int, ...]) -> np.ndarray:
    """Every voxel's position from the middle of the volume, (3, I, J, K): the affine written out."""
    ijk = np.stack(np.meshgrid(*(np.arange(side) - (side - 1) / 2 for side in shape_ijk), indexing="ij"))
    return np.einsum("wa,aijk->wijk", affine[:3, :3], ijk)


def lesion(affine: np.ndarray, octant: tuple[float, ...]) -> np.ndarray:
    """A ball (in units of half the volume of `AFFINE`) as the grid of any affine sees it."""
    half_ras_mm = np.array([20, 44, 72]) / 2
    units = offsets_ras_mm(affine, SHAPE_IJK) / half_ras_mm[:, None, None, None]
    return np.linalg.norm(units - np.reshape(octant, (3, 1, 1, 1)), axis=0) < 0.3


def rearranged(array_ijk: np.ndarray, affine: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All 48 ways to store the same volume: axes permuted and flipped, each with its matching affine."""
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        stored = array_ijk.transpose(order)[tuple(slice(None, None, sign) for sign in signs)]
        to_source = np.zeros((4, 4))
        to_source[3, 3] = 1
        for axis, (source_axis, sign) in enumerate(zip(order, signs, strict=True)):
            to_source[source_axis, axis] = sign
            to_source[source_axis, 3] = 0 if sign > 0 else stored.shape[axis] - 1
        yield np.ascontiguousarray(stored), affine @ to_source


def turned(affine: np.ndarray, axis_ras: tuple[float, ...], angle_deg: float) -> np.ndarray:
    """The affine of a grid turned about an axis of the patient (Rodrigues' formula); its middle is not kept."""
    unit, angle = np.asarray(axis_ras) / np.linalg.norm(axis_ras), np.deg2rad(angle_deg)
    cross = np.array([[0, -unit[2], unit[1]], [unit[2], 0, -unit[0]], [-unit[1], unit[0], 0]])
    rotated = affine.copy()
    rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    rotated[:3, :3] = rotation @ affine[:3, :3]
    return rotated


def displayed(mask_ijk: np.ndarray, affine: np.ndarray, axis: str) -> tuple[str, Finding]:
    """Sentence and finding of the slice that shows most of the mask; it must be the only such slice."""
    image = SourceImage(mask_ijk, affine_ijk_to_ras=affine)
    array_axis = volume_frame(image, SliceRef(axis, 0)).array_axis
    areas_px = mask_ijk.sum(axis=tuple(other for other in range(3) if other != array_axis))
    frame = volume_frame(image, SliceRef(axis, int(areas_px.argmax())))
    mask_HW = frame.take(mask_ijk)
    axes = Geometry(mask_HW.shape, mask_HW.shape, frame.spacing_hw_mm, frame).patient_axes
    findings = findings_of(mask_HW, "lesion", zone_rule="posmed", spacing_hw_mm=frame.spacing_hw_mm, patient_axes=axes)
    return rule_text(findings, target="lesion", side_expected=True), findings[0]


def sides_of(octant: tuple[float, ...]) -> tuple[str, str, str]:
    right, front, head = octant
    return (
        "right" if right > 0 else "left",
        "anterior" if front > 0 else "posterior",
        "superior" if head > 0 else "inferior",
    )


@pytest.mark.parametrize("axis", SLICE_AXES)
@pytest.mark.parametrize("octant", OCTANTS, ids=lambda octant: "-".join(sides_of(octant)))
def test_the_same_words_however_the_array_is_stored(axis, octant):
    side, ap, si = sides_of(octant)
    thirds = {"superior": "upper third", "inferior": "lower third"}
    said = set()
    for mask, affine in rearranged(lesion(AFFINE, octant), AFFINE):
        text, finding = displayed(mask, affine, axis)
        said.add(text)
        assert finding.patient_side == side, affine
        assert finding.ap == ("unknown" if axis == "coronal" else ap), affine
        assert finding.si == (thirds[si] if axis == "axial" else si), affine
        assert finding.frame == axis
    assert all(f"the patient's {side}" in text and "nearly" not in text for text in said)
    assert len({text.partition(", about")[0] for text in said}) == 1, said


def test_a_shift_of_the_affine_changes_nothing_and_a_mirrored_one_swaps_the_sides():
    mask, mirrored, shifted = lesion(AFFINE, (0.5, 0.5, 0.5)), AFFINE.copy(), AFFINE.copy()
    mirrored[0] *= -1
    shifted[:3, 3] += (100, -300, 500)
    assert displayed(mask, AFFINE, "axial")[1].patient_side == "right"
    assert displayed(mask, shifted, "axial") == displayed(mask, AFFINE, "axial")
    assert displayed(mask, mirrored, "axial")[1].patient_side == "left"


def test_a_volume_of_one_slice_does_not_say_where_that_slice_lies():
    mask = lesion(AFFINE, (0.5, 0.5, 0.5))
    for array_axis, (axis, unknown) in enumerate([("sagittal", "patient_side"), ("coronal", "ap"), ("axial", "si")]):
        index = int(mask.sum(axis=tuple({0, 1, 2} - {array_axis})).argmax())
        text, finding = displayed(np.take(mask, [index], axis=array_axis), AFFINE, axis)
        assert getattr(finding, unknown) == "unknown" and finding.frame == axis
        assert text.endswith("Patient side unknown: this view does not show it.") == (axis == "sagittal")


@pytest.mark.parametrize("axis", SLICE_AXES)
@pytest.mark.parametrize("angle_deg", [3, 12, 25, 40])
@pytest.mark.parametrize("axis_ras", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)])
def test_an_oblique_grid_says_the_same_side(axis, angle_deg, axis_ras):
    """The lesion is the same ball of the patient, whatever grid looks at it."""
    straight = np.diag([-2.0, 2.0, 3.0, 1.0])
    for octant in OCTANTS:
        for affine in (turned(straight, axis_ras, angle_deg), turned(straight, axis_ras, -angle_deg)):
            offsets = offsets_ras_mm(affine, (40, 40, 40))
            center = np.array(octant) * 30
            mask = np.linalg.norm(offsets - center[:, None, None, None], axis=0) < 9
            text, finding = displayed(mask, affine, axis)
            assert finding.patient_side == sides_of(octant)[0], (octant, affine)
            assert axis == "coronal" or finding.ap == sides_of(octant)[1]
            about = f"nearly {axis}, {angle_deg} degrees off"
            if len(set(axis_ras)) > 1:  # about one of the patient's axes the largest angle is the turn itself
                assert (about in text) == (angle_deg > 5)
            assert parse_position(text).kind == "positions"


def test_through_the_file(tmp_path):
    """What is written as NIfTI and read back says the same."""
    mask = lesion(AFFINE, (-0.5, 0.5, 0.5))
    for number, (stored, affine) in enumerate(list(rearranged(mask, AFFINE))[::7]):
        path = tmp_path / f"{number}.nii.gz"
        write_nifti(path, stored.astype(np.uint8), affine)
        image = read_image(path)
        text, _ = displayed(image.array > 0, image.affine_ijk_to_ras, "axial")
        assert "the patient's left, anterior, in the upper third of the scanned volume" in text


@pytest.mark.parametrize("axis", SLICE_AXES)
def test_brain1_keeps_its_side(shared_data, axis):
    """A real volume whose direction matrix is flipped (stored left, anterior, superior)."""
    image = read_image(shared_data / "volumes" / "brain1_image.nii.gz")
    path = shared_data / "volumes" / "brain1_mask.nii.gz"
    mask = read_mask(path, MaskRef("nifti", str(path), 1), image)
    middle_ijk = (np.array(mask.shape) - 1) / 2
    centroid_ras_mm = image.affine_ijk_to_ras[:3, :3] @ (np.argwhere(mask).mean(axis=0) - middle_ijk)
    side = "right" if centroid_ras_mm[0] > 0 else "left"
    assert abs(centroid_ras_mm[0]) > 20  # far from the middle: the side is beyond doubt
    said = {displayed(stored, affine, axis)[0] for stored, affine in rearranged(mask, image.affine_ijk_to_ras)}
    assert len(said) == 1 and f"the patient's {side}" in said.pop()


@pytest.mark.parametrize("angle_deg", [-30, -10, 10, 30])
@pytest.mark.parametrize("axis_ras", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)])
def test_brain1_resampled_obliquely_keeps_its_side(shared_data, axis_ras, angle_deg):
    image = read_image(shared_data / "volumes" / "brain1_image.nii.gz")
    path = shared_data / "volumes" / "brain1_mask.nii.gz"
    mask = read_mask(path, MaskRef("nifti", str(path), 1), image)
    cubic = turned(np.diag([-3.0, 3.0, 3.0, 1.0]), axis_ras, angle_deg)
    to_source = np.linalg.inv(image.affine_ijk_to_ras[:3, :3])
    source = np.einsum("aw,wijk->aijk", to_source, offsets_ras_mm(cubic, (70, 70, 60)))
    nearest = np.rint(source + ((np.array(mask.shape) - 1) / 2)[:, None, None, None]).astype(int)
    inside = np.all((nearest >= 0) & (nearest < np.reshape(mask.shape, (3, 1, 1, 1))), axis=0)
    resampled = np.zeros((70, 70, 60), bool)
    resampled[inside] = mask[tuple(nearest[:, inside])]
    straight, oblique = displayed(mask, image.affine_ijk_to_ras, "axial"), displayed(resampled, cubic, "axial")
    assert oblique[1].patient_side == straight[1].patient_side == "left"
    assert oblique[1].ap == straight[1].ap and "nearly axial" in oblique[0]
