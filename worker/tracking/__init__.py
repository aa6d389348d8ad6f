"""The tracking process: from the ledger and the storage it keeps runs at MLflow up to date.

It is a process of its own beside the training worker, so that no tracking server slows a training down.
"""
