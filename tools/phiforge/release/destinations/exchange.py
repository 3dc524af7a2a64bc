"""Two folders exchange their names in one step of the file system, where it has such a step.

Linux: renameat2 with RENAME_EXCHANGE (man 2 rename; ext4, xfs, btrfs, tmpfs). macOS: renamex_np with RENAME_SWAP
(man 2 renamex_np; APFS). Windows has no such call for folders.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_AT_FDCWD = -100  # fcntl.h: relative paths are relative to the working folder
_RENAME_EXCHANGE = 2  # linux/fs.h
_RENAME_SWAP = 2  # sys/stdio.h of macOS
_NOT_HERE = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})


def exchange(first: Path, second: Path) -> bool:
    """Swap the names of two folders in one step, which no reader can see half of.

    Args:
        first: A folder.
        second: A folder of the same file system.

    Returns:
        False if the system or the file system cannot; then nothing was done.

    Raises:
        OSError: It can, and failed.
    """
    call = _system_call()
    if call is None:
        return False
    name, arguments = call(os.fsencode(first), os.fsencode(second))
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is None:
        return False
    if function(*arguments) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NOT_HERE:
        return False
    raise OSError(number, os.strerror(number), str(first), None, str(second))


def _system_call() -> Callable[[bytes, bytes], tuple[str, tuple[object, ...]]] | None:
    """Give the name of the system's call and its arguments for two paths."""
    if sys.platform.startswith("linux"):
        return lambda first, second: ("renameat2", (_AT_FDCWD, first, _AT_FDCWD, second, _RENAME_EXCHANGE))
    if sys.platform == "darwin":
        return lambda first, second: ("renamex_np", (first, second, _RENAME_SWAP))
    return None
