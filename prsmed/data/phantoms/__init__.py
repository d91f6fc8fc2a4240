"""Generated pictures of six modalities and CT and MRI volumes, with lesions whose outline is known."""

from prsmed.data.phantoms.folder import write_phantoms
from prsmed.data.phantoms.pictures import make_picture
from prsmed.data.phantoms.volumes import make_volume

__all__ = ["make_picture", "make_volume", "write_phantoms"]
