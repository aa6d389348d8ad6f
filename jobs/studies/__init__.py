"""Studies: groups of ordinary jobs, and the decision which jobs come next.

That decision depends only on a study's specification and on the results of its trials: `kinds`, with one module for
each kind of study, knows no database. `trial_rows` reads the trials for it, and `advance` carries its decisions out.
"""
