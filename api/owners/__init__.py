"""Owners: who the caller is, and what an owner uses and may use."""
