"""Workers: one kind trains, the other inspects uploads. Neither loads torch."""
