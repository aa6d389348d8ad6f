"""Networks: where their sections are, how blocks are taken out, teachers and students, and the families."""
