"""The soak: hundreds of channels at once, their ends drawn at random, and some of the processes killed.

``make soak`` runs it for so many minutes; tests/test_soak.py for some seconds. See docs/reliability.md.
"""
