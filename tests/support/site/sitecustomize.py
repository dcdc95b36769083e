"""Tags the names of each Python that a test starts, where the run shares /dev/shm: see support/apart.py.

Python imports a module of this name at its start; ``apart.enter`` puts this folder on its path.
"""

from support import apart

apart.enter()
