"""What `GET /metrics` of the API tells: numbers of this process, and numbers of the ledger."""
