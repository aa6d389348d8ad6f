"""The machine that a worker runs on: its devices, its health, its row in the ledger."""
