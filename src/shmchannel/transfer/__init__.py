"""Shared memory that moves from port to port."""
