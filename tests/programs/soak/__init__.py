"""The soak: hundreds of channels at once, with ends drawn at random, while processes are killed.

``make soak`` runs it for minutes, tests/test_soak.py for seconds. See docs/reliability.md.
"""
