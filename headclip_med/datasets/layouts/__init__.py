"""Folder layouts → labelled cases."""
