"""PostgreSQL: the connection, the tables, migrations and notifications."""
