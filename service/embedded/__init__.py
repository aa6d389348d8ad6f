"""A real PostgreSQL and a real Valkey as child processes, for one machine without Docker or root."""
