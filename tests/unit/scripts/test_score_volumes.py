"""Volume Dice and detection, on blocks whose overlaps are counted by hand."""

import numpy as np

from prsmed.volumes import VolumeOptions
from scripts.score_volumes import score_volume


def blocks(*starts: int) -> np.ndarray:
    """Blocks of 2 x 2 x 4 voxels along the first axis."""
    mask_ijk = np.zeros((30, 4, 6), dtype=bool)
    for start in starts:
        mask_ijk[start : start + 2, 1:3, 1:5] = True
    return mask_ijk


def test_one_met_by_half_one_missed_one_false() -> None:
    """Of 2 x 16 true and 2 x 16 predicted voxels 8 are shared; IoU of the met pair is 8 / 24."""
    scores = score_volume(blocks(1, 20), blocks(2, 10), 2, voxel_mm3=1.0, options=VolumeOptions(min_volume_mm3=16))
    assert scores == {"dice": 0.25, "lesions": 2, "detected": 1, "findings": 2, "false": 1}


def test_nothing_predicted_and_nothing_there() -> None:
    options = VolumeOptions()
    assert score_volume(blocks(), blocks(), 2, voxel_mm3=1.0, options=options)["dice"] == 1.0
    missed = score_volume(blocks(), blocks(3), 2, voxel_mm3=1.0, options=options)
    assert missed == {"dice": 0.0, "lesions": 1, "detected": 0, "findings": 0, "false": 0}
