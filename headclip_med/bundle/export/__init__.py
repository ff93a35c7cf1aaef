"""A detector as one file that runs without headclip_med's own code, checked against the detector."""
