"""The 48 ways a scanner's array can lie along the patient's axes, with voxels of 1 x 2 x 3 mm (right, front, head)."""

from itertools import permutations, product

import numpy as np

SIZES_RAS_MM = (1.0, 2.0, 3.0)
SHAPE_IJK = (4, 5, 6)


def _affine(order: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = 0
    for array_axis, (world_axis, sign) in enumerate(zip(order, signs, strict=True)):
        affine[world_axis, array_axis] = sign * SIZES_RAS_MM[world_axis]
    affine[:3, 3] = (7, -11, 13)
    return affine


AFFINES = [_affine(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]


def world_ras(affine: np.ndarray, shape_ijk: tuple[int, int, int] = SHAPE_IJK) -> np.ndarray:
    """Right, anterior and superior of every voxel, (3, I, J, K): the affine written out."""
    ijk = np.stack(np.meshgrid(*(np.arange(side) for side in shape_ijk), indexing="ij"))
    return np.einsum("wa,aijk->wijk", affine[:3, :3], ijk) + affine[:3, 3, None, None, None]
