"""Webhooks: messages about jobs, studies and uploads, recorded with the change that they tell of, and delivered."""
