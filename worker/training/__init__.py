"""The training worker: claims jobs, supervises their trainers and records what becomes of them."""
