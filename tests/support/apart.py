"""A run's own /dev/shm, so that the tests neither touch nor count what belongs to other programs.

``enter`` mounts an empty /dev/shm that only this process and its children see. Root may do so in a mount
namespace; another user needs a user namespace, which not every system permits. Where it cannot be mounted,
the run shares /dev/shm, and every name it makes begins with a tag of its own: see ``names_tagged``.
"""

from __future__ import annotations

import os
import secrets
from typing import Any

# In the environment:
SHARE = "SHMCHANNEL_TESTS_SHARE"  # not empty: share /dev/shm, even where one could be mounted
TAG = "SHMCHANNEL_TESTS_TAG"  # the tag of a run that shares it

_HERE = os.path.dirname(__file__)
_random_name, _list_folder = secrets.token_urlsafe, os.listdir

# From <linux/sched.h> and <linux/mount.h>.
_CLONE_NEWNS, _CLONE_NEWUSER = 0x0002_0000, 0x1000_0000
_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_PRIVATE = 2, 4, 0x4000, 0x4_0000


def enter() -> None:
    """Mount a /dev/shm for this process and its children; where that is not permitted, tag their names."""
    if TAG not in os.environ and (os.environ.get(SHARE) or not mounted()):
        os.environ[TAG] = secrets.token_hex(2)  # 4 of the 16 random characters of a name
        path = [f"{_HERE}/site", os.path.dirname(_HERE), os.environ.get("PYTHONPATH")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    if TAG in os.environ:
        names_tagged(os.environ[TAG])


def free_handle() -> str:
    """A handle that no channel has, for a test that puts a file of its own in the place of one."""
    return "shmch-" + secrets.token_urlsafe(12)


def mounted(options: str = "mode=1777") -> bool:
    """Mount a tmpfs with those options at /dev/shm, as ``enter`` does; False where that is not permitted."""
    child = os.fork()  # tries it first: this process could not leave a namespace again
    if child == 0:
        try:
            _mount(options)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if status != 0:
        return False
    try:
        _mount(options)
    except OSError:  # a process with threads, as a worker of pytest-xdist, gets no user namespace
        return False
    return True


def _mount(options: str) -> None:
    import ctypes  # here: each Python of a run with a tag imports this module

    libc = ctypes.CDLL(None, use_errno=True)

    def call(function: str, *arguments: object) -> None:
        if getattr(libc, function)(*arguments) != 0:
            raise OSError(ctypes.get_errno(), function)

    user, group = os.geteuid(), os.getegid()
    call("unshare", _CLONE_NEWNS | (_CLONE_NEWUSER if user else 0))
    if user:  # the user and the group keep their numbers
        maps = {"setgroups": "deny", "uid_map": f"{user} {user} 1", "gid_map": f"{group} {group} 1"}
        for file, line in maps.items():
            with open(f"/proc/self/{file}", "w") as written:
                written.write(line)
    call("mount", None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None)
    call("mount", b"tmpfs", b"/dev/shm", b"tmpfs", ctypes.c_ulong(_MS_NOSUID | _MS_NODEV), options.encode())


def names_tagged(tag: str) -> None:
    """Begin each name that this process makes with ``tag``, and hide from it all names without the tag.

    So this process sweeps only what has the tag. A second tag replaces the first.
    """

    def random_name(size: int) -> str:
        return tag + _random_name(size)[len(tag) :]

    def list_folder(path: Any = ".") -> list[str]:
        names = _list_folder(path)
        if str(path) != "/dev/shm":
            return names
        return [name for name in names if "shmch-" not in name or f"shmch-{tag}" in name]

    secrets.token_urlsafe = random_name  # type: ignore[assignment]
    os.listdir = list_folder  # type: ignore[assignment]
