"""The kill matrix: one side dies or stands still at each step of a channel's life; the other side is checked.

``make crash`` runs all of it; tests/test_kill_matrix.py a part. See docs/reliability.md.
"""
