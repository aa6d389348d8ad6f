"""The rows of jobs, uploads, workers and keys, and every change of them."""
