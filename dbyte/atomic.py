"""A file written so that a kill leaves the old one or the new one, never a part: temporary file, then rename."""

import errno
import os
import shutil
from pathlib import Path


def explain_full_disk(path: Path, error: Exception, *, needed: int = 0, written: int = 0) -> None:
    """Raise OSError that names `path` and the space there, if the error while it was written is that of a full disk.

    needed: bytes of the whole, 0: not known. written: bytes of it that are removed again.
    """
    if isinstance(error, OSError) and error.errno != errno.ENOSPC:
        return
    free = shutil.disk_usage(path.parent).free + written
    wanted = f"{needed / 1e6:,.2f} MB are needed" if needed else "more is needed"
    raise OSError(f"{path} could not be written ({error}): {free / 1e6:,.2f} MB are free there, {wanted}. What was "
                  "there before is untouched: make room and give the same command again") from error


def atomic_write(path: Path, data: str | bytes) -> None:
    """Write `data` (text as UTF-8, newlines unchanged) to `path`, making its folder; raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = data.encode("utf-8") if isinstance(data, str) else data
    # The process id keeps two writers apart; the rename needs the same file system, so the same folder.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        explain_full_disk(path, error, needed=len(data), written=temporary.stat().st_size if temporary.exists() else 0)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def up_to_date(path: Path, wanted: str, *, write: bool) -> bool:
    """Return whether the file at `path` holds `wanted`; with `write`, write it if it does not and return True."""
    agrees = path.is_file() and path.read_text(encoding="utf-8") == wanted
    if write and not agrees:
        atomic_write(path, wanted)
    return agrees or write
