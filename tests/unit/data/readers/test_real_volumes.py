"""Every real volume and DICOM file against SimpleITK: grid, values, and the same value at the same point.

Where SimpleITK differs the test says why: it inverts MONOCHROME1, gives an enhanced image the order of its frames, and
reads frames without positions as a volume.
"""

import numpy as np
import pytest
import SimpleITK

from prsmed.data.readers import read_image
from prsmed.errors import DataError

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
NIFTI = [
    *(f"STS_00{patient}_{kind}" for patient in (2, 3) for kind in ("CT_image", "CT_mask", "MR_T1_image")),
    *(f"STS_00{patient}_{kind}" for patient in (2, 3) for kind in ("MR_T1_mask", "PET_image", "PET_mask")),
    *("abdomen_ct_image", "abdomen_multilabel_pred", "brain1_image", "brain1_mask", "breast1_image", "breast1_mask"),
    *("nsclc_ct_image", "nsclc_ct_mask"),
]
SERIES = {
    "STS_008_PET_RTSTRUCT/image": ("PT", 51),
    "dcmqi_liver_CT3slice_SEG/ct": ("CT", 3),
    "ibsi_nsclc_phantom_CT_RTSTRUCT/image": ("CT", 60),
    "totalseg_example_CT": ("CT", 20),
}
IBSI = "ibsi_nsclc_phantom_CT_RTSTRUCT/image"


def _by_itk(path):
    if not path.is_dir():
        return SimpleITK.ReadImage(str(path))
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path)))
    return reader.Execute()


def _affine_by_itk(volume):
    affine_ijk_to_lps = np.eye(4)
    affine_ijk_to_lps[:3, :3] = np.array(volume.GetDirection()).reshape(3, 3) * volume.GetSpacing()
    affine_ijk_to_lps[:3, 3] = volume.GetOrigin()
    return LPS_TO_RAS @ affine_ijk_to_lps


def _check_points(image, volume):
    """Voxels at random, on SimpleITK's grid by their place in the patient, have the values SimpleITK has there."""
    voxels = np.random.default_rng(0).integers(0, image.array.shape, (200, 3))
    values = SimpleITK.GetArrayFromImage(volume).transpose()
    for voxel in voxels:
        point_ras = image.affine_ijk_to_ras @ [*voxel, 1]
        place = volume.TransformPhysicalPointToIndex((LPS_TO_RAS @ point_ras)[:3].tolist())
        assert image.array[tuple(voxel)] == pytest.approx(values[place], rel=1e-6)


def _check_same_grid_and_values(image, volume):
    assert image.array.shape == volume.GetSize()
    np.testing.assert_allclose(image.spacing_mm, volume.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(image.affine_ijk_to_ras, _affine_by_itk(volume), atol=1e-3)
    values = SimpleITK.GetArrayFromImage(volume).transpose()
    # float32 here, float64 there
    np.testing.assert_allclose(image.array, values, rtol=1e-6)
    for statistic in (np.min, np.max, np.mean, np.std):
        assert statistic(image.array.astype(float)) == pytest.approx(float(statistic(values.astype(float))), rel=1e-6)
    _check_points(image, volume)


@pytest.mark.parametrize("name", NIFTI)
def test_a_volume_is_the_same_in_nifti_nrrd_and_metaimage(shared_data, tmp_path, name):
    volume = _by_itk(shared_data / "volumes" / f"{name}.nii.gz")
    _check_same_grid_and_values(read_image(shared_data / "volumes" / f"{name}.nii.gz"), volume)
    for suffix in (".nrrd", ".mha"):
        SimpleITK.WriteImage(volume, str(tmp_path / f"a{suffix}"))
        _check_same_grid_and_values(read_image(tmp_path / f"a{suffix}"), volume)


@pytest.mark.parametrize("name", SERIES)
def test_a_series(shared_data, name):
    image = read_image(shared_data / "dicom" / name)
    assert (image.dicom_modality, len(image.series.files)) == SERIES[name]
    assert image.notes == ()
    _check_same_grid_and_values(image, _by_itk(shared_data / "dicom" / name))


def test_a_series_and_the_nifti_made_from_it_agree(shared_data):
    series = read_image(shared_data / "dicom" / IBSI)
    _check_points(series, _by_itk(shared_data / "volumes" / "nsclc_ct_image.nii.gz"))


@pytest.mark.parametrize("name", ["JPGLosslessP14SV1_1s_1f_8b", "US1_J2KR"])
def test_ultrasound_pictures(shared_data, name):
    path = shared_data / "dicom" / "single" / f"{name}.dcm"
    image, values = read_image(path), SimpleITK.GetArrayFromImage(_by_itk(path))
    assert image.array.dtype == np.uint8 and not image.is_volume and image.dicom_modality == "US"
    np.testing.assert_array_equal(image.array.squeeze(), values.squeeze())
    assert (image.spacing_mm, image.patient_axes) == (None, None)


def test_a_monochrome1_radiograph_is_not_inverted_as_by_simpleitk(shared_data):
    path = shared_data / "dicom" / "single" / "RG1_J2KI.dcm"
    image, values = read_image(path), SimpleITK.GetArrayFromImage(_by_itk(path))
    assert image.is_inverted and image.array.dtype == np.uint16
    np.testing.assert_array_equal(image.array[..., 0], 2**15 - 1 - values[0].astype(int))  # 15 bits stored
    assert (image.patient_axes, image.view_position, image.dicom_modality) == (("L", "F"), "PA", "CR")
    assert image.spacing_mm is None and "no pixel spacing" in image.notes[0]  # Pixel Spacing is 0 there


def test_frames_of_an_enhanced_ct_are_ordered_by_position(shared_data):
    path = shared_data / "dicom" / "single" / "eCT_Supplemental.dcm"
    image, volume = read_image(path), _by_itk(path)
    assert image.array.shape == volume.GetSize() and image.spacing_mm == pytest.approx(volume.GetSpacing())
    np.testing.assert_array_equal(image.array[..., ::-1], SimpleITK.GetArrayFromImage(volume).transpose())
    _check_points(image, volume)


def test_an_enhanced_mr_without_positions_is_no_volume(shared_data):
    path = shared_data / "dicom" / "single" / "emri_small.dcm"
    with pytest.raises(DataError, match="10 frames without positions"):
        read_image(path)
    values = SimpleITK.GetArrayFromImage(_by_itk(path))
    for frame in range(1, 11):
        np.testing.assert_array_equal(read_image(path, frame=frame).array[..., 0], values[frame - 1])


def test_a_whole_delivery_has_to_be_narrowed_down(shared_data):
    with pytest.raises(DataError, match="holds 9 series"):
        read_image(shared_data / "dicom")
