"""Writing masks and pictures for people to look at."""

from prsmed.data.writers.picture import (
    contact_sheet,
    draw_overlay,
    to_display,
    write_mask,
    write_overlay,
    write_picture,
)

__all__ = ["contact_sheet", "draw_overlay", "to_display", "write_mask", "write_overlay", "write_picture"]
