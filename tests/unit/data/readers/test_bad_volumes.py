"""One table of volumes that are wrong, or only look wrong: each is refused with a remedy, or read exactly, with a note.

Whatever happens, no message or note repeats what the files say of the patient.
"""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from pydicom.uid import JPEG2000Lossless

from prsmed.data.readers import read_image
from prsmed.errors import DataError
from tests.unit.data.readers.made_dicom import PATIENT, enhanced, picture, save, save_compressed, slice_of

OTHER_UID = "1.2.826.0.1.3680043.8.498.9"
TILT = 0.2  # mm to the side for each mm forward: 11.3 degrees


def _series(folder, *indices, **tags):
    return save(folder, *(slice_of(index, **tags) for index in indices))


def _nifti(path, affine=None, shape=(3, 4, 5)):
    nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), np.eye(4) if affine is None else affine), path)
    return path


def _nifti_with_rows(path, rows):
    """nibabel refuses to write some affines: the sform's bytes are set by hand (NIfTI-1, offset 280)."""
    _nifti(path)
    raw = bytearray(path.read_bytes())
    raw[280:328] = np.array(rows, "<f4").tobytes()
    path.write_bytes(raw)
    return path


def _itk(path, old=b"", new=b"", shape=(5, 4, 3), is_vector=False, dtype=np.int16):
    """A NRRD or MetaImage of SimpleITK with a part of its header exchanged."""
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros(shape, dtype), isVector=is_vector), str(path))
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    return path


def _truncated(path, share=0.5):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path.parent


def _without_pixels(folder):
    dataset = slice_of(1)
    del dataset.PixelData
    return save(folder, slice_of(0), dataset, slice_of(2))


def _with_nan(folder):
    dataset = slice_of(0)
    del dataset.PixelData
    dataset.BitsAllocated, dataset.FloatPixelData = 32, np.full((4, 5), np.nan, np.float32).tobytes()
    return save(folder, dataset)


def _empty_folder(folder):
    (folder / "inner").mkdir()
    (folder / "DOE_JOHN.txt").write_text("not DICOM")
    return folder


def _tilted(folder):
    return save(folder, *(slice_of(k, ImagePositionPatient=[0, TILT * 2.5 * k, 2.5 * k]) for k in range(4)))


def _shifted(folder):
    return save(folder, *(slice_of(k, ImagePositionPatient=[5 * (k == 1), 0, 2.5 * k]) for k in range(4)))


def _mixed(folder, **tags):
    return save(folder, slice_of(0), slice_of(1), slice_of(2, **tags))


def _times(folder):
    return save(folder, *(slice_of(k, InstanceNumber=10 * t + k) for t in range(3) for k in range(4)))


def _enhanced_times(folder):
    positions = [[0, 0, z] for z in (0, 0, 4, 4)]
    return save(folder, enhanced(np.zeros((4, 4, 5), np.uint16), positions, slopes=[1] * 4))


NOISE = np.random.default_rng(0).integers(-1000, 1000, (40, 40)).astype(np.int16)
RGB = np.zeros((4, 5, 3), np.uint8)
ROW, COLUMN, SHEARED = [1, 0, 0, 0], [0, 1, 0, 0], [0, 0.3, 1, 0]
NAN, INF = float("nan"), float("inf")

REFUSED = {
    "empty folder": (_empty_folder, "no DICOM file"),
    "no such folder": (lambda f: f / "gone", "cannot be opened"),
    "mixed series": (lambda f: _mixed(f, SeriesInstanceUID=OTHER_UID), f"2 series .*{OTHER_UID}.*; choose one"),
    "missing slice": (lambda f: _series(f, 0, 1, 2, 4, 5), r"5\.000 mm from slice 3 to 4, usually 2\.500 mm"),
    "missing slice of two steps": (lambda f: _series(f, 0, 1, 3), "unevenly spaced"),
    "duplicate slice": (lambda f: _series(f, 0, 1, 1, 2), "1 positions hold several different images.* slice 2"),
    "gantry tilt": (_tilted, r"sheared by 11\.3 degrees \(gantry tilt\)"),
    "shifted slice": (_shifted, r"sideways against each other by up to 5\.00 mm"),
    "mixed orientations": (lambda f: _mixed(f, ImageOrientationPatient=[0, 1, 0, 0, 0, 1]), "several orientations"),
    "mixed pixel sizes": (lambda f: _mixed(f, PixelSpacing=[3, 2.1]), "several orientations or pixel sizes"),
    "mixed shapes": (lambda f: _mixed(f, pixels_HW=np.zeros((6, 5), np.int16)), "2 sizes"),
    "DICOM rows along columns": (lambda f: _series(f, 0, 1, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "right angle"),
    "DICOM position NaN": (lambda f: _mixed(f, ImagePositionPatient=["nan", 0, 5]), "no stack of slices"),
    "DICOM zero spacing": (lambda f: _series(f, 0, 1, PixelSpacing=[0, 0]), "no stack of slices .*zero"),
    "DICOM without spacing": (lambda f: _series(f, 0, 1, PixelSpacing=None), "no stack of slices"),
    "pictures of one series": (lambda f: save(f, *[picture(RGB[..., 0])] * 1, picture(RGB[..., 0])), "name one file"),
    "4D series": (_times, "3 images at each of 4 positions"),
    "4D enhanced": (_enhanced_times, "2 images at each of 2 positions"),
    "RGB series": (lambda f: _series(f, 0, 1, pixels_HW=RGB), "colour volume"),
    "truncated DICOM": (lambda f: _truncated(_series(f, 0, 1) / "1.dcm", 0.98), "instance 2 .*cannot be decoded"),
    "truncated header": (lambda f: _truncated(_series(f, 0, 1) / "1.dcm", 0.7), "1 of 2 DICOM files are truncated"),
    "truncated JPEG 2000": (
        lambda f: _truncated(save_compressed(f / "a.dcm", slice_of(0, NOISE), JPEG2000Lossless), 0.8),
        "instance 1 has no pixel data, or it is cut off",
    ),
    "DICOM without pixel data": (_without_pixels, "instance 2 has no pixel data"),
    "NaN voxels": (_with_nan, "instance 1 holds NaN or infinity"),
    "a mask as image": (lambda f: save(f, slice_of(0, Modality="SEG")), "of the kind SEG, expected an image"),
    "frame of a series": (lambda f: _series(f, 0, 1), "frame belongs to one", {"frame": 1}),
    "frame of a NIfTI": (lambda f: _nifti(f / "a.nii"), "is no DICOM", {"frame": 1}),
    "not DICOM": (lambda f: _itk(f / "a.mha").rename(f / "a.dcm"), "is not a DICOM file"),
    "NIfTI NaN affine": (lambda f: _nifti_with_rows(f / "a.nii", [[NAN, 0, 0, 0], COLUMN, [0, 0, 1, 0]]), "not invert"),
    "NIfTI singular affine": (lambda f: _nifti_with_rows(f / "a.nii", [ROW, ROW, [0, 0, 1, 0]]), "not invertible"),
    "NIfTI zero spacing": (lambda f: _nifti_with_rows(f / "a.nii", [[0] * 4, COLUMN, [0, 0, 1, 0]]), "not invertible"),
    "NIfTI sheared": (lambda f: _nifti_with_rows(f / "a.nii", [ROW, [0, 1, 0.3, 0], [0, 0, 1, 0]]), "16.7 degrees"),
    "NIfTI 4D": (lambda f: _nifti(f / "a.nii", shape=(3, 4, 5, 2)), "expected three dimensions"),
    "NRRD singular": (lambda f: _itk(f / "a.nrrd", b"(1,0,0)", b"(0,1,0)"), "cannot be decoded .*determinant"),
    "NRRD zero spacing": (lambda f: _itk(f / "a.nrrd", b"(1,0,0)", b"(0,0,0)"), "cannot be decoded"),
    "NRRD NaN": (lambda f: _itk(f / "a.nrrd", b"(1,0,0)", b"(nan,nan,nan)"), "not finite"),
    "NRRD NaN origin": (lambda f: _itk(f / "a.nrrd", b"origin: (0", b"origin: (nan"), "not finite"),
    "NRRD sheared": (lambda f: _itk(f / "a.nrrd", b"(0,0,1)", b"(0,0.3,1)"), r"16\.7 degrees"),
    "NRRD without space": (
        lambda f: _itk(f / "a.nrrd", b"space: left-posterior-superior", b"space dimension: 3"),
        "no orientation in the patient",
    ),
    "NRRD elsewhere": (lambda f: _itk(f / "a.nrrd", b"endian: ", b"data file: b.raw\nendian: "), "in another file"),
    "NRRD RGB": (lambda f: _itk(f / "a.nrrd", shape=(5, 4, 3, 3), is_vector=True, dtype=np.uint8), "convert to grey"),
    "NRRD 4D": (lambda f: _itk(f / "a.nrrd", shape=(2, 5, 4, 3)), "expected three dimensions|no orientation"),
    "NRRD truncated": (lambda f: _truncated(_itk(f / "a.nrrd"), 0.9) / "a.nrrd", "cannot be decoded"),
    "MHA NaN": (lambda f: _itk(f / "a.mha", b"TransformMatrix = 1", b"TransformMatrix = nan"), "not finite"),
    "MHA NaN offset": (lambda f: _itk(f / "a.mha", b"Offset = 0", b"Offset = nan"), "not finite"),
    "MHA singular": (lambda f: _itk(f / "a.mha", b"Matrix = 1 0 0 0 1", b"Matrix = 1 0 0 1 0"), "cannot be decoded"),
    "MHA zero spacing": (lambda f: _itk(f / "a.mha", b"Spacing = 1", b"Spacing = 0"), "cannot be decoded"),
    "MHA without directions": (lambda f: _itk(f / "a.mha", b"TransformMatrix", b"Comment"), "no orientation"),
    "MHA elsewhere": (lambda f: _itk(f / "a.mha", b"DataFile = LOCAL", b"DataFile = b.raw"), "in another file"),
    "MHA truncated": (lambda f: _truncated(_itk(f / "a.mha"), 0.9) / "a.mha", "cannot be decoded"),
    "MHA 2D": (lambda f: _itk(f / "a.mha", shape=(4, 3)), "expected three dimensions"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_volume_is_refused_with_a_remedy(tmp_path, name):
    make, message, *options = REFUSED[name]
    path = make(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        read_image(path, **(options[0] if options else {}))
    text = str(caught.value)
    assert text.startswith(str(path)) and "; " in text and not _names_the_patient(text)


def _jitter(folder):
    return save(folder, *(slice_of(k, ImagePositionPatient=[0, 0, 2.5 * k + 0.004 * (-1) ** k]) for k in range(6)))


def _beside_other_files(folder):
    (folder / "DOE_JOHN.txt").write_text("not DICOM")
    return _series(folder, 0, 1, 2)


def _nearly_full(folder):
    return _series(folder, 0, 1, pixels_HW=np.full((4, 5), 65535, np.uint16), RescaleSlope=2, RescaleIntercept=-1)


ACCEPTED = {
    "one slice": (lambda f: _series(f, 7), (5, 4, 1), 7, ""),
    "one NIfTI slice": (lambda f: _nifti(f / "a.nii", shape=(3, 4, 1)), (3, 4, 1), 0, ""),
    "positions rounded": (_jitter, (5, 4, 6), 5, ""),
    "tilt stated, slices straight": (lambda f: _series(f, 0, 1, GantryDetectorTilt=12), (5, 4, 2), 1, ""),
    "non-DICOM files in the folder": (_beside_other_files, (5, 4, 3), 2, "1 files in the folder"),
    "16-bit overflow": (_nearly_full, (5, 4, 2), 131069, ""),
    "non-Latin names": (lambda f: _series(f / "ความ 検査 ż", 0, 1), (5, 4, 2), 1, ""),
    "no preamble": (lambda f: _without_preamble(f), (5, 4, 1), 7, ""),
    "no instance UIDs": (lambda f: _series(f, 0, 1, SOPInstanceUID=None), (5, 4, 2), 1, ""),
    "one instance UID for all": (lambda f: _series(f, 0, 1, SOPInstanceUID="1.2.3"), (5, 4, 2), 1, ""),
}


def _without_preamble(folder):
    """A bare data set, as before PS3.10: the preamble, the prefix and the group 0002 cut off."""
    file = _series(folder, 7) / "0.dcm"
    content = file.read_bytes()
    file.write_bytes(content[content.index(b"\x08\x00\x16\x00UI", 132) :])
    return file


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_only_looks_bad_is_read(tmp_path, name):
    make, shape_ijk, highest, note = ACCEPTED[name]
    image = read_image(make(tmp_path))
    assert image.array.shape == shape_ijk and image.array.max() == highest and image.is_volume
    assert len(image.notes) == bool(note) and note in "".join(image.notes)
    assert not _names_the_patient("".join(image.notes))


def _names_the_patient(text: str) -> bool:
    return any(part in text for part in (PATIENT, *PATIENT.split("^")))


def test_the_series_can_be_read_from_a_relative_path(tmp_path, monkeypatch):
    _series(tmp_path / "series", 0, 1)
    monkeypatch.chdir(tmp_path)
    assert read_image(Path("series")).array.shape == (5, 4, 2)
