"""Data files of the embedded pair; nothing to import."""
