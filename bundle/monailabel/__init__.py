"""The MONAI Label app: asking and correcting from 3D Slicer or OHIF. See docs/slicer.md; start with `make label`.

MONAI Label has an environment of its own (`requirements.txt`). `asked`, `gate`, `audit`, `turns`, `served` and
`finetune` know nothing of it, so that they are tested in the ordinary one.
"""
