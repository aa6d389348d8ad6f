"""API keys: made, listed, rotated and revoked by administrators."""
