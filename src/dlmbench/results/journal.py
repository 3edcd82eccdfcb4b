"""Crash-safe files: append-only logs with fsync, and files that are replaced atomically.

A killed run loses at most the line it was writing; a full disk loses nothing that was written before.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from dlmbench.errors import BenchError

T = TypeVar("T")

LOCK = ".lock"
LARGEST = 1e50


def write_error(error: OSError, path: Path) -> BenchError:
    """The error to show for a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return BenchError(
            f"the disk is full: {path} could not be written",
            "Everything recorded before is kept: free some space, then run the same command again to resume",
        )
    reason = error.strerror or type(error).__name__
    return BenchError(f"{path} could not be written: {reason}", "Check its permissions, or name another --output-dir")


def _sync_folder(folder: Path) -> None:
    """Make the creation or renaming of a file in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: str | bytes) -> None:
    """Replace a file atomically: readers see the old or the new file, also after a crash."""
    draft = path.with_name(f".{path.name}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise write_error(error, path) from error


def append_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Append records in one write and wait until they are on disk.

    On failure the file is truncated to its former length where possible.

    The file is opened each time (cheap compared with the fsync), so that a folder that was deleted or a disk
    that was unmounted in the meantime is an error instead of lost records.
    """
    data = "".join(json.dumps(r, allow_nan=False) + "\n" for r in records).encode("ascii")
    if not data:
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        try:
            size = os.fstat(descriptor).st_size
            try:
                if os.write(descriptor, data) != len(data):
                    raise OSError(errno.ENOSPC, "short write")
                os.fsync(descriptor)
            except OSError:
                with contextlib.suppress(OSError):  # the first error is the one to report
                    os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise write_error(error, path) from error


def drop_torn_line(path: Path) -> None:
    """Create the log if it does not exist, and cut off an unfinished last line (left by a killed writer)."""
    try:
        is_new = not path.exists()
        with path.open("a+b") as file:
            file.seek(0)
            data = file.read()
            if data and not data.endswith(b"\n"):
                file.truncate(data.rfind(b"\n") + 1)
                os.fsync(file.fileno())
        if is_new:
            _sync_folder(path.parent)
    except OSError as error:
        raise write_error(error, path) from error


class _NumberError(ValueError):
    """A number that no measurement gives."""


def parse_json(text: str | bytes) -> Any:
    """A JSON document whose numbers are finite and at most LARGEST in size: what dlmbench writes and can square.

    Raises:
        ValueError: not JSON, or another number, NaN among them.
        RecursionError: nested too deeply.
    """
    return json.loads(text, parse_int=_whole, parse_float=_fraction, parse_constant=_fraction)


def _fraction(digits: str) -> float:
    value = float(digits)
    if not abs(value) <= LARGEST:
        raise _NumberError(f"{digits[:20]} is not a number that dlmbench writes")
    return value


def _whole(digits: str) -> int:
    _fraction(digits)  # the limit first: Python reads no integer of thousands of digits
    return int(digits)


def read_json(path: Path, parse: Callable[[Any], T], hint: str) -> T | None:
    """What `parse` makes of a JSON file; None without the file.

    Raises:
        BenchError: the file cannot be read, or is not one that dlmbench wrote; with `hint`.
    """
    try:
        return parse(parse_json(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise BenchError(f"{path} is not the file that dlmbench wrote ({error})", hint) from error


def broken_line(path: Path, number: int, reason: str) -> BenchError:
    """The error to show for a line of a log that is not a record."""
    return BenchError(f"{path}, line {number}: {reason}", "Restore the file from a copy, or delete that line")


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and records of a log; an unfinished last line is ignored, a missing file is empty.

    Raises:
        BenchError: any other line is not a JSON object (with file and line number), or the file is unreadable.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise BenchError(f"{path} could not be read: {error.strerror}", "Check its permissions") from error
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            record = parse_json(line)
        except _NumberError as error:
            raise broken_line(path, number, str(error)) from error
        except (ValueError, RecursionError) as error:
            raise broken_line(path, number, "not a JSON object") from error
        if not isinstance(record, dict):
            raise broken_line(path, number, "not a JSON object")
        yield number, record


def is_being_written(folder: Path) -> bool:
    """Whether a process has the folder open for writing; False on file systems that cannot lock."""
    try:
        with (folder / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


class LockedFolder:
    """A folder open for writing, by one process at a time.

    The kernel releases the lock however the process ends. On the few file systems that cannot lock (some cluster
    mounts) the user must ensure that only one run writes there.
    """

    def __init__(self, folder: Path) -> None:
        """Create the folder if it does not exist, and lock it.

        Raises:
            BenchError: not a folder, not writable, or in use by another run.
        """
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except (FileExistsError, NotADirectoryError) as error:
            raise BenchError(f"{folder} is not a folder", "Name another --output-dir") from error
        except OSError as error:
            raise write_error(error, folder) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            self.close()
            hint = "Wait for it to end, or name another --output-dir"
            raise BenchError(f"another run is writing to {folder}", hint) from error
        except OSError:
            pass

    def close(self) -> None:
        """Release the lock; nothing is pending, each append was on disk when it returned."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
