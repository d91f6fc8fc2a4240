"""Label maps as NRRD, the format that 3D Slicer exchanges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK

from prsmed.data.readers.picture import exif_orientation
from prsmed.errors import DataError
from prsmed.geometry import lps_ras
from prsmed.types import SourceImage


def write_label_nrrd(path: str | Path, label: np.ndarray, image: SourceImage, *, compress: bool = True) -> None:
    """Write a label map on its image's grid: same shape, same directions, spacing and origin.

    A picture becomes a volume of one slice, columns first, with the pixel grid that ITK and 3D Slicer give its file.

    Args:
        path: a file that ends in .nrrd, in a folder that exists.
        label: uint8 or uint16, (I, J, K) on the stored grid of a volume, or (H, W) of a picture.

    Raises:
        DataError: a picture that its file holds turned (EXIF), so that ITK shows it otherwise than it was asked.
    """
    grid = label if image.is_volume else label.T[:, :, None]
    volume = SimpleITK.GetImageFromArray(np.ascontiguousarray(grid.transpose()))
    if image.affine_ijk_to_ras is not None:
        affine = image.affine_ijk_to_ras
        spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
        volume.SetSpacing(spacing_mm.tolist())
        volume.SetDirection(lps_ras((affine[:3, :3] / spacing_mm).T).T.ravel().tolist())
        volume.SetOrigin(lps_ras(affine[:3, 3]).tolist())
    else:
        _lay_on_file(volume, image)
    SimpleITK.WriteImage(volume, str(path), useCompression=compress)


def _lay_on_file(volume: SimpleITK.Image, picture: SourceImage) -> None:
    """Give a picture's label the spacing, direction and origin that ITK reads from the picture's file."""
    path = picture.series.files[0] if picture.series else picture.path
    if not path:  # made here, not read
        return
    if picture.series is None and exif_orientation(Path(path)) != 1:
        raise DataError(f"{path}: holds the picture turned (EXIF); save it upright, or no label map can lie on it")
    file = SimpleITK.ImageFileReader()
    file.SetFileName(path)
    try:
        file.ReadImageInformation()
    except RuntimeError:  # a format that ITK does not read: there is no grid of its to follow
        return
    axes = file.GetDimension()
    volume.SetSpacing([*file.GetSpacing(), 1.0][:3])
    volume.SetOrigin([*file.GetOrigin(), 0.0][:3])
    direction = np.eye(3)
    direction[:axes, :axes] = np.reshape(file.GetDirection(), (axes, axes))
    volume.SetDirection(direction.ravel().tolist())
