"""prsmed: ask a medical image where something is; get a mask, a box and a truthful sentence."""

__version__ = "0.1.0"
