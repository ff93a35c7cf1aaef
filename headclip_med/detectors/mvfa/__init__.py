"""MVFA."""
