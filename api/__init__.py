"""HTTP in front of the ledger: checks requests, calls the ledger, never trains and never loads torch."""
