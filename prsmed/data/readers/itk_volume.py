"""Volumes: NRRD and MetaImage (.mha) through SimpleITK, in stored order, with the affine the file states.

SimpleITK's reader is right about voxels and directions; MONAI's ITKReader runs the same ITK code and would need the
itk package beside it. Where a header is silent ITK invents an identity, and it reads a NaN origin as zero; so the
header's text is looked at first.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import SimpleITK

from prsmed.data.readers import scratch
from prsmed.data.readers.files import require_file
from prsmed.data.readers.itk_stream import HEADER_BYTES, mapped_voxels
from prsmed.data.readers.scratch import in_final_type
from prsmed.data.readers.voxels import plain_voxels, voxel_sizes_mm
from prsmed.errors import DataError
from prsmed.geometry import lps_ras
from prsmed.types import SourceImage

ITK_SUFFIXES = (".nrrd", ".mha")

# the spaces that ITK understands; it would take any other for LPS
_NRRD_SPACES = ("left-posterior-superior", "right-anterior-superior", "left-anterior-superior", "lps", "ras", "las")


def read_itk_volume(path: str | Path) -> SourceImage:
    """Read one volume.

    Returns:
        SourceImage with array (I, J, K) in stored order (integers as they are, floats as float32), affine_ijk_to_ras
        of the file's directions and origin, and spacing_mm along I, J and K.

    Raises:
        DataError: missing, empty or damaged file, voxels in another file, not three dimensions, colour or complex
            voxels, NaN or infinity, no stated orientation, or a grid without an inverse or without right angles.
    """
    path = Path(path)
    require_file(path)
    fields = _header_fields(path)
    _check_header(fields, path)
    volume = SimpleITK.ImageFileReader()
    volume.SetFileName(str(path))
    try:
        volume.ReadImageInformation()
        kind = SimpleITK.GetPixelIDValueAsString(volume.GetPixelID())
        if volume.GetNumberOfComponents() > 1 or "complex" in kind:
            raise DataError(f"{path}: voxels are {kind}, expected one number; convert to grey")
        array_ijk = plain_voxels(in_final_type(_voxels(volume, fields, path), path), path)
    except RuntimeError as error:
        said = re.search(r"ITK ERROR: (?:\w+\(\w+\): )?(.*)", str(error))
        reason = said[1].strip() if said else str(error).strip().splitlines()[-1]
        raise DataError(f"{path}: cannot be decoded ({reason}); repair its header or export it again") from error
    dimension = volume.GetDimension()
    affine_ijk_to_ras = np.eye(4)
    directions_lps = np.array(volume.GetDirection()).reshape(dimension, dimension)[:3, :3]
    affine_ijk_to_ras[:3, :3] = lps_ras((directions_lps * volume.GetSpacing()[:3]).T).T
    affine_ijk_to_ras[:3, 3] = lps_ras(np.array(volume.GetOrigin()[:3]))
    return SourceImage(
        array=array_ijk,
        affine_ijk_to_ras=affine_ijk_to_ras,
        spacing_mm=voxel_sizes_mm(affine_ijk_to_ras, path),
        path=str(path),
    )


def _voxels(volume: SimpleITK.ImageFileReader, fields: dict[str, str], path: Path) -> np.ndarray:
    """As stored, (I, J, K); those of a large file are mapped."""
    if math.prod(volume.GetSize()) > scratch.IN_MEMORY_BYTES // 4:  # voxels take 1 to 8 bytes
        array_ijk = mapped_voxels(path, fields, volume)
        if array_ijk is not None:
            return array_ijk
    # ITK's arrays run from the last axis to the first
    return SimpleITK.GetArrayFromImage(volume.Execute()).transpose()


def header_size(path: Path) -> tuple[int, ...]:
    """Voxels along each axis, as ITK reads them from the header; RuntimeError where it cannot."""
    header = SimpleITK.ImageFileReader()
    header.SetFileName(str(path))
    header.ReadImageInformation()
    return tuple(header.GetSize())


def _header_fields(path: Path) -> dict[str, str]:
    """The header's `key: value` (NRRD) or `key = value` (MetaImage) lines, keys in lower case without spaces."""
    with path.open("rb") as stream:
        text = stream.read(HEADER_BYTES).decode("latin-1")
    fields = {}
    for line in text.splitlines():
        key, _, value = line.partition("=" if path.suffix.lower() == ".mha" else ":")
        fields[key.strip().replace(" ", "").lower()] = value.strip()
        # the voxels follow: NRRD closes its header with an empty line, MetaImage with this field
        if not line.strip() or key.strip() == "ElementDataFile":
            break
    return fields


def _check_header(fields: dict[str, str], path: Path) -> None:
    if "datafile" in fields or fields.get("elementdatafile", "LOCAL").upper() != "LOCAL":
        raise DataError(f"{path}: keeps its voxels in another file; save header and voxels as one .nrrd or .mha")
    space = fields.get("space", "").lower()
    states_directions = {"transformmatrix", "rotation", "orientation"} & fields.keys()
    if space not in _NRRD_SPACES if path.suffix.lower() == ".nrrd" else not states_directions:
        raise DataError(
            f"{path}: states no orientation in the patient (NRRD needs space and space directions, MetaImage a "
            f"TransformMatrix); save it again with its directions"
        )
    names = ("spacedirections", "spaceorigin", "transformmatrix", "offset", "origin", "position", "elementspacing")
    geometry = " ".join(fields.get(name, "") for name in names)
    if re.search(r"nan|inf", geometry, flags=re.IGNORECASE):
        raise DataError(f"{path}: directions, origin or spacing are not finite ({geometry.strip()}); repair the header")
