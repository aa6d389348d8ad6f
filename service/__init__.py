"""The commands of the service, its child processes, and the embedded PostgreSQL and Valkey."""
