"""Which tracking servers jobs may report to, and the ledger's rows of the runs that follow jobs there."""
