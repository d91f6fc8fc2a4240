"""Which slice of the stored array a Slicer view shows."""

from __future__ import annotations

from collections.abc import Sequence

Matrix = Sequence[Sequence[float]]
_SUPERIOR = 2


def axial_index(ras_to_ijk: Matrix, ijk_to_ras: Matrix, shape_ijk: Sequence[int], offset_mm: float) -> int:
    """The index, along the stored axis that is nearest to head and feet, of the slice at a height in the patient.

    Args:
        ras_to_ijk, ijk_to_ras: (4, 4), of the volume.
        shape_ijk: its voxels along I, J and K.
        offset_mm: height of the view's plane, RAS; the middle of the volume stands for the other two coordinates.
    """
    centre_ijk = [(side - 1) / 2 for side in shape_ijk] + [1.0]
    point_ras = [sum(row[axis] * centre_ijk[axis] for axis in range(4)) for row in ijk_to_ras]
    point_ras[_SUPERIOR] = offset_mm
    lengths = [sum(row[axis] ** 2 for row in ijk_to_ras[:3]) ** 0.5 for axis in range(3)]
    along = max(range(3), key=lambda axis: abs(ijk_to_ras[_SUPERIOR][axis]) / lengths[axis])
    index = sum(ras_to_ijk[along][axis] * point_ras[axis] for axis in range(4))
    return min(max(round(index), 0), shape_ijk[along] - 1)
