"""The formats of data sets: one file for each, from bytes to raw samples."""
