"""Workers: one kind trains, the other inspects uploaded teachers. Neither loads torch."""
