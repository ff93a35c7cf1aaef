"""Readers, writers and sample data of the manifest."""
