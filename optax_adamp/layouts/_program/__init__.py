"""Reads axes from a program: the walk over its operations, and what each does."""
