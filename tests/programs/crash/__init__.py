"""The kill matrix: every step of a channel's life, and what the other side gets when one dies there.

``make crash`` runs all of it; tests/test_kill_matrix.py a part. See docs/reliability.md.
"""
