"""The napari plugin: opens results and sample data. Importing it loads neither napari nor torch."""
