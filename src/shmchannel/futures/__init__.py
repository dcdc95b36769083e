"""Pools of workers behind the standard's interface, ``concurrent.futures``, over channels."""

import sys

from .errors import WorkerLost
from .process import ProcessPoolExecutor

__all__ = ["ProcessPoolExecutor", "WorkerLost"]

if sys.version_info >= (3, 14):
    from .interpreter import InterpreterPoolExecutor

    __all__ += ["InterpreterPoolExecutor"]
