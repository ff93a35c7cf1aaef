"""The ground that every room stands on: errors, types, geometry, files, names, threads. Imports nothing of ours."""
