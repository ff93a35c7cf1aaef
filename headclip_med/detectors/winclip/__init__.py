"""WinCLIP."""
