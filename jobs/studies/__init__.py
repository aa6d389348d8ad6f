"""Studies: groups of ordinary jobs, and what is to be done next.

What comes next is a function of a study's specification and of what its trials have reached, and of nothing else: the
modules of the three kinds, and all that they read, know no database. `rows` and `advance` carry it to the ledger.
"""
