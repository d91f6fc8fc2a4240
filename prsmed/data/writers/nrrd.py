"""Label maps as NRRD, the format that 3D Slicer exchanges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK

from prsmed.geometry import lps_ras
from prsmed.types import SourceImage


def write_label_nrrd(path: str | Path, label: np.ndarray, image: SourceImage, *, compress: bool = True) -> None:
    """Write a label map on its image's grid: same shape, same directions, spacing and origin.

    A picture becomes a volume of one slice, columns first, with the pixel grid that ITK and 3D Slicer give its file.

    Args:
        path: a file that ends in .nrrd, in a folder that exists.
        label: uint8 or uint16, (I, J, K) on the stored grid of a volume, or (H, W) of a picture.
    """
    grid = label if image.is_volume else label.T[:, :, None]
    volume = SimpleITK.GetImageFromArray(np.ascontiguousarray(grid.transpose()))
    if image.affine_ijk_to_ras is not None:
        affine = image.affine_ijk_to_ras
        spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
        volume.SetSpacing(spacing_mm.tolist())
        volume.SetDirection(lps_ras((affine[:3, :3] / spacing_mm).T).T.ravel().tolist())
        volume.SetOrigin(lps_ras(affine[:3, 3]).tolist())
    elif image.series is not None:
        header = SimpleITK.ImageFileReader()
        header.SetFileName(image.series.files[0])
        header.ReadImageInformation()
        volume.SetSpacing(header.GetSpacing())
        volume.SetDirection(header.GetDirection())
        volume.SetOrigin(header.GetOrigin())
    SimpleITK.WriteImage(volume, str(path), useCompression=compress)
