"""What is in the viewer: layers, grid, orientation, windows."""
