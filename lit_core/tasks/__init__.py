"""What a network is for: how its batches are made, how it is scored, what is reported of it."""
