"""A hospital's archive as source and target: a client for DICOMweb and DIMSE. Needs the extra ``pacs``, no torch."""
