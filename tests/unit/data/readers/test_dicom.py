"""DICOM that can be read: order, grid, values and what the file says of the patient. Files are made here."""

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import ComprehensiveSRStorage, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from prsmed.data.readers import image_suffix, read_image
from prsmed.data.readers.dicom_pixels import rescale
from prsmed.errors import DataError
from tests.unit.data.readers.made_dicom import (
    FRAME_UID,
    SERIES_UID,
    STUDY_UID,
    enhanced,
    jpeg_lossless,
    picture,
    save,
    save_compressed,
    slice_of,
)

GREY = np.arange(12, dtype=np.uint16).reshape(3, 4) * 300
AXIAL_AFFINE = [[-2, 0, 0, 10], [0, -3, 0, -20], [0, 0, 2.5, 0], [0, 0, 0, 1]]
"""Of `slice_of`: columns go to the patient's left, rows to the back, both negative in RAS."""


def _read(tmp_path, dataset, **options):
    return read_image(save(tmp_path, dataset) / "0.dcm", **options)


def test_slices_are_ordered_by_position_not_by_name_or_number(tmp_path):
    slices = [slice_of(index, InstanceNumber=9 - index) for index in (3, 0, 2, 1)]
    image = read_image(save(tmp_path, *slices))
    assert image.array.dtype == np.int16 and image.array.shape == (5, 4, 4) and image.is_volume
    assert image.array[0, 0].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(image.affine_ijk_to_ras, AXIAL_AFFINE)
    assert image.spacing_mm == (2.0, 3.0, 2.5) and image.dicom_modality == "CT" and image.notes == ()
    assert (image.series.study_uid, image.series.series_uid) == (STUDY_UID, SERIES_UID)
    assert image.series.frame_of_reference_uid == FRAME_UID
    assert [name.rsplit("/")[-1] for name in image.series.files] == ["1.dcm", "3.dcm", "2.dcm", "0.dcm"]


def test_voxels_lie_where_the_tags_put_them(tmp_path):
    # a coronal stack, rows towards the head: the steps to column 4, row 1, slice 2 by hand in LPS, then x and y negated
    tags = {"ImageOrientationPatient": [1, 0, 0, 0, 0, 1]}
    pixels = np.arange(20, dtype=np.int16).reshape(4, 5)
    slices = [slice_of(0, pixels + 100 * step, ImagePositionPatient=[1, -7 * step, 3], **tags) for step in range(3)]
    image = read_image(save(tmp_path, *slices))
    # the normal is x cross z, which is -y: the slice at y = -14 is the last
    assert image.array[4, 1, 2] == 100 * 2 + 5 * 1 + 4
    np.testing.assert_allclose(image.affine_ijk_to_ras @ [4, 1, 2, 1], [-(1 + 4 * 2), 14, 3 + 1 * 3, 1])


@pytest.mark.parametrize("name", ["IM0001", "1.2.840.113", "scan.dcm", "脑 MRT żółć"])
def test_any_file_name_will_do(tmp_path, name):
    save(tmp_path / "ボリューム", slice_of(0), slice_of(1), names=[name, f"{name}b"])
    assert read_image(tmp_path / "ボリューム" / name).array.shape == (5, 4, 1)
    assert read_image(tmp_path / "ボリューム").array.shape == (5, 4, 2)
    assert image_suffix(name) == (".dcm" if name.endswith(".dcm") else None)


def test_the_thickness_of_a_lone_slice(tmp_path):
    stated, unstated = _read(tmp_path, slice_of(3)), _read(tmp_path, slice_of(3, SliceThickness=None))
    assert (stated.spacing_mm, stated.notes) == ((2.0, 3.0, 2.5), ())
    assert unstated.spacing_mm == (2.0, 3.0, 1.0) and "thickness is not stated" in unstated.notes[0]


def test_several_series_need_a_choice(tmp_path):
    other = "1.2.826.0.1.3680043.8.498.9"
    save(tmp_path, slice_of(0), slice_of(1), slice_of(2, SeriesInstanceUID=other, Modality="MR"))
    with pytest.raises(DataError) as caught:
        read_image(tmp_path)
    message = str(caught.value)
    assert f"CT with 2 instances: {SERIES_UID}, MR with 1 instances: {other}" in message and "series_uid" in message
    assert read_image(tmp_path, series_uid=SERIES_UID).array.shape == (5, 4, 2)
    with pytest.raises(DataError, match=r"1\.2\.3 is not among them"):
        read_image(tmp_path, series_uid="1.2.3")


def test_what_does_not_belong_is_ignored_with_a_note(tmp_path):
    scout = slice_of(7, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], ImagePositionPatient=[0, 0, 99])
    report = slice_of(8, Modality="SR", SOPClassUID=ComprehensiveSRStorage, SeriesInstanceUID="1.2.3", Rows=None)
    first = slice_of(0)
    save(tmp_path, first, first, slice_of(1), scout, report)
    (tmp_path / "Thumbs.db").write_bytes(b"\0" * 200)
    (tmp_path / "viewer").mkdir()
    (tmp_path / "viewer" / "DOE_JOHN.txt").write_text("read me")
    image = read_image(tmp_path)
    assert image.array.shape == (5, 4, 2)
    assert image.notes == (
        "2 files in the folder that are not DICOM were ignored",
        "1 DICOM objects that are no images (SR) were ignored",
        "1 further copies of instances of the series were ignored",
        "1 localizers in the series were ignored",
    )


@pytest.mark.parametrize(("name", "size", "suffix"), [("9.dcm", 0, ".dcm"), ("9.dcm", 100, ".dcm"), ("IM0009", 0, "")])
def test_a_file_that_was_not_copied_whole_is_no_shorter_volume(name, size, suffix, tmp_path):
    save(tmp_path, slice_of(0), slice_of(1), names=[f"IM0{suffix}", f"IM1{suffix}"])
    (tmp_path / name).write_bytes((tmp_path / f"IM1{suffix}").read_bytes()[:size])
    with pytest.raises(DataError, match="headers of 1 of 3 DICOM files are truncated or damaged"):
        read_image(tmp_path)


def test_what_others_leave_in_a_folder_is_no_cut_off_file(tmp_path):
    save(tmp_path, slice_of(0), slice_of(1))
    (tmp_path / "._0.dcm").write_bytes(b"\0\5\x16\7" * 40)  # macOS puts one beside each file
    (tmp_path / "LOCKFILE").touch()
    assert read_image(tmp_path).array.shape == (5, 4, 2)


def test_a_scout_is_a_picture(tmp_path):
    image = _read(tmp_path, slice_of(0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    assert not image.is_volume and "not a slice" in image.notes[-1]


@pytest.mark.parametrize(
    ("stored", "slope", "intercept", "dtype", "expected"),
    [
        (np.array([0, 4095], np.uint16), 1.0, -1024.0, np.int16, [-1024, 3071]),
        (np.array([-2000, 32767], np.int16), 1.0, -1024.0, np.int16, [-3024, 31743]),
        (np.array([-2000, 32767], np.int16), 1.0, 1.0, np.int32, [-1999, 32768]),
        (np.array([65535], np.uint16), 1.0, 0.0, np.int32, [65535]),
        (np.array([65535], np.uint16), 2.0, -1.0, np.int32, [131069]),
        (np.array([2**32 - 1], np.uint32), 1.0, 0.0, np.float32, [2**32]),
        (np.array([10, 20], np.uint16), 0.25, 1.0, np.float32, [3.5, 6.0]),
    ],
)
def test_rescaled_values_do_not_overflow(stored, slope, intercept, dtype, expected):
    values = rescale(stored, slope, intercept)
    assert values.dtype == dtype and values.tolist() == expected


def test_each_slice_has_its_own_rescale(tmp_path):
    pixels = np.full((4, 5), 1000, np.uint16)
    rescales = [(1, 0), (50, 5), (0.5, 0.25)]
    slices = [slice_of(k, pixels, RescaleSlope=a, RescaleIntercept=b) for k, (a, b) in enumerate(rescales)]
    assert read_image(save(tmp_path / "whole", *slices[:2])).array[0, 0].tolist() == [1000, 50005]
    image = read_image(save(tmp_path / "all", *slices))
    assert image.array.dtype == np.float32 and image.array[0, 0].tolist() == [1000, 50005, 500.25]


@pytest.mark.parametrize("bits", ["overlay in the high bits", "sign in bit 11"])
def test_unused_bits_are_no_values(tmp_path, bits):
    # 12 bits stored: 0xF005 is 5 beside an overlay; 0x0FFB is -5 in twelve bits of two's complement
    word, signed, value = (0xF005, 0, 5) if bits.startswith("overlay") else (0x0FFB, 1, -5)
    pixels = np.full((4, 5), word, np.uint16)
    image = _read(tmp_path, slice_of(0, pixels, BitsStored=12, HighBit=11, PixelRepresentation=signed))
    assert (image.array == value).all()


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless], ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_lossless_compression_changes_nothing(tmp_path, syntax, dtype):
    pixels = np.random.default_rng(0).integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (40, 48)).astype(dtype)
    image = read_image(save_compressed(tmp_path / "a.dcm", slice_of(0, pixels), syntax))
    np.testing.assert_array_equal(image.array[..., 0].T, pixels)


@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
def test_lossless_jpeg(tmp_path, interpretation):
    pixels = np.random.default_rng(0).integers(0, 65535, (9, 8)).astype(np.uint16)
    dataset = picture(pixels, PhotometricInterpretation=interpretation)
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    dataset.PixelData = encapsulate([jpeg_lossless(pixels)])
    np.testing.assert_array_equal(_read(tmp_path, dataset).array[..., 0], pixels)


def test_a_rgb_picture_and_its_compressed_form(tmp_path):
    colours = np.random.default_rng(0).integers(0, 255, (40, 48, 3)).astype(np.uint8)
    image = _read(tmp_path, picture(colours, Modality="ES"))
    compressed = read_image(save_compressed(tmp_path / "c", picture(colours), JPEG2000Lossless))
    np.testing.assert_array_equal(image.array, colours)
    np.testing.assert_array_equal(compressed.array, colours)
    assert image.dicom_modality == "ES" and not image.is_volume


def test_ybr_becomes_rgb(tmp_path):
    # PS3.3 C.7.6.3.1.2, YBR_FULL: Y 76, Cb 85, Cr 255 is pure red
    ybr = np.full((2, 2, 3), (76, 85, 255), np.uint8)
    image = _read(tmp_path, picture(ybr, PhotometricInterpretation="YBR_FULL"))
    assert np.abs(image.array.astype(int) - (255, 0, 0)).max() <= 1


def test_a_palette_becomes_rgb(tmp_path):
    indices = np.array([[0, 1], [2, 1]], np.uint8)
    palette = {"Red": [0, 255, 10], "Green": [0, 0, 20], "Blue": [0, 128, 30]}
    dataset = picture(indices, PhotometricInterpretation="PALETTE COLOR")
    for colour, entries in palette.items():
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [3, 0, 16])
        content = (np.array(entries, "<u2") * 257).tobytes()  # an 8-bit colour in 16 bits: both bytes alike
        setattr(dataset, f"{colour}PaletteColorLookupTableData", content)
    image = _read(tmp_path, dataset)
    assert image.array.dtype == np.uint8
    assert image.array.tolist() == [[[0, 0, 0], [255, 0, 128]], [[10, 20, 30], [255, 0, 128]]]


def test_monochrome1_is_told_not_inverted(tmp_path):
    image = _read(tmp_path, picture(GREY, Modality="DX", PhotometricInterpretation="MONOCHROME1"))
    assert image.is_inverted and image.array.dtype == np.uint16
    np.testing.assert_array_equal(image.array[..., 0], GREY)
    assert not _read(tmp_path, picture(GREY)).is_inverted


@pytest.mark.parametrize(
    ("tags", "spacing_hw_mm", "note"),
    [
        ({"PixelSpacing": [0.2, 0.1], "Modality": "US"}, (0.2, 0.1), None),
        ({"PixelSpacing": [0.2, 0.1], "Modality": "CR"}, (0.2, 0.1), "at the detector"),
        ({"PixelSpacing": [0.2, 0.1], "PixelSpacingCalibrationType": "FIDUCIAL", "Modality": "DX"}, (0.2, 0.1), None),
        ({"ImagerPixelSpacing": [0.15, 0.15], "Modality": "DX"}, (0.15, 0.15), "at the detector"),
        ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.3, 0.3], "Modality": "CR"}, (0.3, 0.3), "at the detector"),
        ({"PixelSpacing": [0, 0], "Modality": "CR"}, None, "no pixel spacing"),
        ({}, None, "no pixel spacing"),
    ],
)
def test_spacing_of_a_picture(tmp_path, tags, spacing_hw_mm, note):
    image = _read(tmp_path, picture(GREY, **tags))
    assert image.spacing_mm == spacing_hw_mm
    assert len(image.notes) == (note is not None) and (note or "") in "".join(image.notes)


@pytest.mark.parametrize(
    ("tags", "axes", "laterality"),
    [
        ({"PatientOrientation": ["L", "F"], "ImageLaterality": "R"}, ("L", "F"), "right"),
        ({"PatientOrientation": ["PR", "FA"], "Laterality": "L"}, ("P", "F"), "left"),
        ({"PatientOrientation": ["", ""], "ImageLaterality": "U"}, None, None),
        ({"PatientOrientation": ["L"], "ImageLaterality": "B"}, None, None),
        ({"ImageLaterality": "R", "Laterality": "L"}, None, None),
        ({}, None, None),
    ],
)
def test_what_a_picture_says_of_the_patient(tmp_path, tags, axes, laterality):
    image = _read(tmp_path, picture(GREY, ViewPosition="PA", **tags))
    assert (image.patient_axes, image.laterality, image.view_position) == (axes, laterality, "PA")
    assert any("contradict" in note for note in image.notes) == (
        len(tags) == 2 and "Laterality" in tags and axes is None
    )


def test_a_projection_is_a_picture_whatever_it_says_of_its_place(tmp_path):
    assert not _read(tmp_path, slice_of(0, Modality="DX")).is_volume


def test_frames_of_an_enhanced_image(tmp_path):
    pixels = np.arange(3 * 4 * 5, dtype=np.uint16).reshape(3, 4, 5)
    positions = [[0, 0, 8], [0, 0, 0], [0, 0, 4]]
    image = _read(tmp_path, enhanced(pixels, positions, slopes=[1, 2, 3]))
    assert image.spacing_mm == (2.0, 3.0, 4.0) and len(image.series.files) == 1
    for k, (frame, slope) in enumerate([(1, 2), (2, 3), (0, 1)]):
        np.testing.assert_array_equal(image.array[:, :, k].T, pixels[frame] * slope)


def test_a_video_needs_a_frame(tmp_path):
    frames = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    video = picture(frames[0], Modality="US", NumberOfFrames=2)
    video.PixelData = frames.tobytes()
    with pytest.raises(DataError, match=r"2 frames without positions.*; choose one with frame, from 1 to 2"):
        _read(tmp_path, video)
    np.testing.assert_array_equal(_read(tmp_path, video, frame=2).array[..., 0], frames[1])
    with pytest.raises(DataError, match="no frame 3"):
        _read(tmp_path, video, frame=3)


def test_a_modality_table_replaces_slope_and_intercept(tmp_path):
    dataset = picture(np.array([[0, 1], [2, 1]], np.uint8), Modality="CR")
    item = Dataset()
    item.LUTDescriptor, item.ModalityLUTType = [3, 0, 16], "US"
    item.add_new("LUTData", "US", [7, 500, 9000])
    dataset.ModalityLUTSequence = [item]
    assert _read(tmp_path, dataset).array[..., 0].tolist() == [[7, 500], [9000, 500]]
