"""Lets HDF5 write to a disk that may be full."""

import io
import os


class DiskFile(io.FileIO):
    """A file that keeps its first write error to itself.

    HDF5 cannot close a file that it fails to write, and crashes the process when that
    ends. It therefore never learns of a full disk: after the first error all it writes
    is dropped, and the writer asks for the error.
    """

    error: OSError | None = None

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
