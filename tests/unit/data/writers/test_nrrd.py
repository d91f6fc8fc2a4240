"""A label map as NRRD lies on its image's grid."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from PIL import Image
from pydicom.uid import DigitalXRayImageStorageForPresentation

from prsmed.data.readers import read_image, read_picture, read_volume
from prsmed.data.writers.nrrd import write_label_nrrd
from prsmed.data.writers.picture import write_picture
from prsmed.errors import DataError
from prsmed.types import SourceImage
from tests.unit.data.readers.made_dicom import picture as dicom_picture
from tests.unit.data.readers.made_dicom import save

# flipped, turned by 30 degrees about the axis of the body, with three different spacings
TURNED = np.array(
    [
        [-0.8 * np.cos(np.pi / 6), 1.5 * np.sin(np.pi / 6), 0, 11],
        [-0.8 * np.sin(np.pi / 6), -1.5 * np.cos(np.pi / 6), 0, -7],
        [0, 0, 3, 2],
        [0, 0, 0, 1],
    ]
)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_volume_keeps_its_grid(tmp_path: Path, dtype: type) -> None:
    label = np.zeros((5, 6, 7), dtype)
    label[4, 0, 2] = 1
    write_label_nrrd(tmp_path / "a.nrrd", label, SourceImage(label, TURNED))
    read = read_volume(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(read.array, label)
    assert read.array.dtype == dtype
    np.testing.assert_allclose(read.affine_ijk_to_ras, TURNED, atol=1e-9)


def test_a_picture_lies_where_itk_puts_its_png(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", np.zeros((4, 6), np.uint8))
    label = np.zeros((4, 6), np.uint8)
    label[3, 1] = 1
    write_label_nrrd(tmp_path / "a.nrrd", label, read_picture(tmp_path / "a.png"))
    picture, volume = SimpleITK.ReadImage(str(tmp_path / "a.png")), SimpleITK.ReadImage(str(tmp_path / "a.nrrd"))
    point = picture.TransformIndexToPhysicalPoint((1, 3))
    assert volume.TransformPhysicalPointToIndex((*point, 0.0)) == (1, 3, 0)
    assert volume[1, 3, 0] == 1 and volume.GetSize() == (6, 4, 1)


def test_a_dicom_picture_lies_where_itk_puts_its_file(tmp_path: Path) -> None:
    x_ray = dicom_picture(np.zeros((4, 6), np.uint8), Modality="DX", ImagerPixelSpacing=[0.3, 0.2])
    x_ray.SOPClassUID = DigitalXRayImageStorageForPresentation
    image = read_image(save(tmp_path, x_ray) / "0.dcm")
    label = np.zeros((4, 6), np.uint8)
    label[3, 1] = 1
    write_label_nrrd(tmp_path / "a.nrrd", label, image)
    source, volume = SimpleITK.ReadImage(str(tmp_path / "0.dcm")), SimpleITK.ReadImage(str(tmp_path / "a.nrrd"))
    assert volume[1, 3, 0] == 1 and volume.GetSize() == source.GetSize() and source.GetSpacing()[:2] == (0.2, 0.3)
    for corner in ((0, 0, 0), (5, 3, 0)):
        expected = source.TransformIndexToPhysicalPoint(corner)
        assert volume.TransformIndexToPhysicalPoint(corner) == pytest.approx(expected)


def test_a_jpeg_with_a_density_lies_where_itk_puts_it_and_a_turned_one_is_refused(tmp_path: Path) -> None:
    Image.new("L", (6, 4)).save(tmp_path / "a.jpg", dpi=(300, 300))
    write_label_nrrd(tmp_path / "a.nrrd", np.zeros((4, 6), np.uint8), read_picture(tmp_path / "a.jpg"))
    source, volume = SimpleITK.ReadImage(str(tmp_path / "a.jpg")), SimpleITK.ReadImage(str(tmp_path / "a.nrrd"))
    assert volume.GetSpacing()[:2] == pytest.approx(source.GetSpacing()[:2])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (6, 4)).save(tmp_path / "b.jpg", exif=exif)
    with pytest.raises(DataError, match=r"holds the picture turned \(EXIF\); save it upright"):
        write_label_nrrd(tmp_path / "b.nrrd", np.zeros((6, 4), np.uint8), read_picture(tmp_path / "b.jpg"))
