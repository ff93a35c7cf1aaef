"""Crane and Crane+."""
