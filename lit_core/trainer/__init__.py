"""The trainer of one job, `python -m lit_core.trainer FOLDER`, and the inspection of an upload."""
