"""Images that are decoded once, by all cores, into files on the disk, from which batches are read by row."""
