"""One file per command of the service; `litc` imports the one that is asked for."""
