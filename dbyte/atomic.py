"""A file written so that a kill leaves the old one or the new one, never a part: temporary file, then rename."""

import os
from pathlib import Path


def atomic_write(path: Path, data: str | bytes) -> None:
    """Write `data` (text as UTF-8, newlines unchanged) to `path`, making its folder; raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id keeps two writers apart; the rename needs the same file system, so the same folder.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data.encode("utf-8") if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def up_to_date(path: Path, wanted: str, *, write: bool) -> bool:
    """Return whether the file at `path` holds `wanted`; with `write` it is made to, if it does not."""
    agrees = path.is_file() and path.read_text(encoding="utf-8") == wanted
    if write and not agrees:
        atomic_write(path, wanted)
    return agrees or write
