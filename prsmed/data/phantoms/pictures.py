"""One phantom picture of any of the six modalities, made from a seed and an index alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from prsmed.data.phantoms.ct import make_ct
from prsmed.data.phantoms.dermoscopy import make_dermoscopy
from prsmed.data.phantoms.endoscopy import make_endoscopy
from prsmed.data.phantoms.mri import make_mri
from prsmed.data.phantoms.ultrasound import make_ultrasound
from prsmed.data.phantoms.xray import make_xray
from prsmed.errors import RequestError

_Maker = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray, np.ndarray | None]]

_MAKERS: dict[str, _Maker] = {
    "ct": make_ct,
    "mri": make_mri,
    "x-ray": make_xray,
    "ultrasound": make_ultrasound,
    "endoscopy": make_endoscopy,
    "dermoscopy": make_dermoscopy,
}


def make_picture(modality: str, seed: int, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """One phantom picture; the same arguments always give the same picture, whatever was made before.

    Args:
        modality: one of the six.
        seed: of the data set, 0 or more.
        index: of the picture in its data set, 0 or more.

    Returns:
        The image, uint8 (H, W) or for endoscopy and dermoscopy (H, W, 3), sides from 112 to 192 px; the union of its
        lesions, bool (H, W), empty in a negative; both lungs, bool (H, W), for x-ray, else None.

    Raises:
        RequestError: unknown modality.
    """
    if modality not in _MAKERS:
        raise RequestError(f"phantom picture: modality is {modality!r}, expected one of {', '.join(_MAKERS)}")
    return _MAKERS[modality](np.random.default_rng([seed, index]))
