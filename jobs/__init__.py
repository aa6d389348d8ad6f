"""The ledger: what a job is, who holds it, what became of it, and where its files lie."""
