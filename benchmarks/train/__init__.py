"""`make bench-train`: what a training step costs, against a naive one and against the student alone."""
