"""The readers of the data set formats, one file each: from bytes to raw samples."""
