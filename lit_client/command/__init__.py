"""`litc`: the command."""
