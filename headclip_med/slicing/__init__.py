"""A volume ↔ its slices: planes, window, black and white, model pixels, and the exact way back."""
