"""`make bench-data`: how fast image files become batches, and in how much memory."""
