"""Streaming metrics: counts, curves, lesions, resampling."""
