"""From a checkpoint file, as a trainer wrote it, to the tensors of one network."""
