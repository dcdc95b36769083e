"""Pools of workers behind the standard's interface, ``concurrent.futures``, over channels."""

from .errors import RemoteError, WorkerLost
from .process import ProcessPoolExecutor

__all__ = ["ProcessPoolExecutor", "RemoteError", "WorkerLost"]
