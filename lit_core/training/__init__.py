"""Training a student: the loop, the losses, the optimisation step, and what a checkpoint holds."""
