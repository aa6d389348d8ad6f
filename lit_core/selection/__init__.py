"""Choosing the teacher's blocks that a student keeps."""
