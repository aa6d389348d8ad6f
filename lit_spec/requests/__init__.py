"""Requests for jobs and studies, and the specifications that they resolve to."""
