"""Lets one process at a time write a file, on a disk that may be full."""

import contextlib
import fcntl
import io
import os

from ctjax.base.errors import UserError


class BusyError(UserError):
    """Another process writes the same target."""


def part_path(target: str | os.PathLike) -> str:
    """Names the hidden file beside a target that it grows in."""
    folder, name = os.path.split(os.fspath(target))
    return os.path.join(folder, f".{name}.part")


class DiskFile(io.FileIO):
    """The part file of a target, which keeps its first write error to itself.

    HDF5 cannot close a file that it fails to write, and crashes the process when that
    ends. It therefore never learns of a full disk: after the first error all it writes
    is dropped, and the writer asks for the error.

    It is locked until it is closed, so that no other process writes the same target,
    and what a process that was killed has left is used anew.
    """

    error: OSError | None = None

    def __init__(self, target: str | os.PathLike):
        """Opens the part file, empty.

        Args:
          target: of the file that it will be renamed to.

        Raises:
          BusyError: another process writes the same target.
          OSError: the folder is missing or not writable.
        """
        self.path = part_path(target)
        super().__init__(self.path, "r+", opener=_open_alone)

    def write(self, data) -> int:
        """Writes all of the bytes, or takes note of the error."""
        rest = memoryview(data).cast("B")
        size = rest.nbytes
        while rest.nbytes and self.error is None:
            try:
                rest = rest[super().write(rest) or 0 :]
            except OSError as error:
                self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        """Sets the size, or takes note of the error."""
        if self.error is None:
            try:
                return super().truncate(size)
            except OSError as error:
                self.error = error
        return size or 0

    def check(self, path: str | os.PathLike) -> None:
        """Raises the error that was kept, as OSError under the name `path`."""
        if self.error is not None:
            raise OSError(self.error.errno, self.error.strerror, str(path))

    def share(self) -> None:
        """Lets the file be read, by HDF5 too, which locks what it reads."""
        with contextlib.suppress(OSError):
            fcntl.flock(self.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)


def _open_alone(path: str, flags: int) -> int:
    """Opens a file that no other process has locked, and empties it."""
    flags |= os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        is_left = os.path.lexists(path)
        descriptor = os.open(path, flags, 0o666)
        try:
            if not _lock(descriptor) and is_left:
                raise UserError(
                    f"{path}: found, expected none: left by a process that was killed, "
                    "or being written (this file system has no locks)"
                )
            # Between opening and locking it may have become the target.
            if os.path.lexists(path) and os.path.samestat(
                os.fstat(descriptor), os.lstat(path)
            ):
                os.truncate(descriptor, 0)
                return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            raise BusyError(
                f"{path}: another process writes it now, expected one for each target"
            ) from error
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Locks a file, False where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def remove_left_parts(folder: str) -> None:
    """Removes part files that processes which were killed have left in a folder.

    Args:
      folder: to look in; those that are being written stay.
    """
    for name in os.listdir(folder):
        if name.startswith(".") and name.endswith(".part"):
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    if _lock(descriptor):
                        os.unlink(path)
                finally:
                    os.close(descriptor)
