"""In the place of pydicom-seg, which MONAI Label imports at start and which does not import beside pydicom 3.

Nothing of it is called here: DICOM segmentations are written by prsmed.data.writers.dicom_seg.
"""
