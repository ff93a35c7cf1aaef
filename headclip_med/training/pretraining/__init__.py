"""Training of a small tower on lesions painted into real anatomy."""
