"""Results as DICOM objects: SEG, parametric map, SR, secondary capture."""
