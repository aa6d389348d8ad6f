"""What a study does next, as pure functions that know no database."""
