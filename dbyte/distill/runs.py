"""Runs on disk: addressed by their content, resumed exactly, and never half-written.

    runs/<hash>/config.json        what was run: step, parent, data, versions of the layout
    runs/<hash>/metrics.jsonl      one line per logged update
    runs/<hash>/checkpoint/        the last resumable state, while the run is not complete
    runs/<hash>/snapshots/<bytes>/ models kept on the way
    runs/<hash>/model/             the finished model, in Hugging Face format
    runs/<hash>/complete.json      written last: updates, bytes, wall seconds

Every folder is written under a temporary name, sealed with the SHA-256 of its files (sums.json), and renamed. Tensors
are safetensors, the rest is JSON.
"""

import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from safetensors import SafetensorError

from dbyte.atomic import atomic_write
from dbyte.paths import RUNS
from dbyte.presets import TEACHERS

SCHEMA = 3  # raise it when old runs must not be taken for new ones
LOOK_SECONDS = 0.5  # far longer than a look at a lock takes


def content_hash(value: object) -> str:
    """SHA-256 (hex) of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_hash(folder: Path) -> str:
    """What identifies a model: the hash of its weights, config and tokenizer, or its hub name and revision."""
    if not folder.exists():
        return f"{folder}@{TEACHERS.get(str(folder))}"
    files = [*folder.glob("*.safetensors"), folder / "config.json", folder / "tokenizer.json"]
    return content_hash({path.name: file_hash(path) for path in sorted(files) if path.exists()})


def write_json(path: Path, value: object) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part."""
    atomic_write(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


@contextmanager
def atomic_dir(folder: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; on success seal it with checksums and rename it to `folder`, else remove it.

    Raises:
        OSError: from the disk (a full one included); `folder` is then as it was, or next to it as `.old`.
    """
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        write_json(temporary / "sums.json", checksums(temporary))
        previous = folder.with_name(folder.name + ".old")
        shutil.rmtree(previous, ignore_errors=True)
        if folder.exists():
            os.rename(folder, previous)
        os.rename(temporary, folder)
        shutil.rmtree(previous, ignore_errors=True)
    except SafetensorError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise OSError(f"{folder} could not be written ({error}): is the disk full? What was there before is untouched"
                      ) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold a lock file; another process that asks for it waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder but its own sums.json, by relative name."""
    return {str(path.relative_to(folder)): file_hash(path) for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != "sums.json"}


def verify(folder: Path) -> str | None:
    """Say what is wrong with a sealed folder; None if every file is as it was written."""
    try:
        expected = json.loads((folder / "sums.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"{folder / 'sums.json'} cannot be read ({error})"
    found = checksums(folder)
    for name in sorted(expected):  # a file that was added later is read by nobody
        if expected[name] != found.get(name):
            return f"{folder / name} is {'damaged' if name in found else 'missing'}"
    return None


def _is_same_file(path: Path, file: TextIO) -> bool:
    """True if the open file is still the one of this name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


class Run:
    """One content-addressed run folder; making the object writes nothing."""

    def __init__(self, config: dict, *, parent: "Run | None" = None, root: Path = RUNS):
        self.config = {"schema": SCHEMA, "parent": parent.hash if parent else None} | config
        self.hash = content_hash(self.config)
        self.parent = parent
        self.folder = root / self.hash[:16]
        self.model_folder = self.folder / "model"
        self.checkpoint_folder = self.folder / "checkpoint"
        self.metrics_path = self.folder / "metrics.jsonl"

    def status(self) -> str:
        """`complete`, `damaged`, `resumable` (it has a checkpoint) or `new`; nothing on disk changes."""
        if (self.folder / "complete.json").exists():
            return "damaged" if self._flaw() else "complete"
        return "resumable" if self.checkpoint_folder.exists() else "new"

    def is_complete(self) -> bool:
        """True for a finished, undamaged model; a damaged one is named and moved aside to be trained again."""
        if not (self.folder / "complete.json").exists():
            return False
        wrong = self._flaw()
        if wrong is None:
            return True
        print(f"run {self.hash[:16]}: {wrong}; the run is done again", file=sys.stderr)
        try:
            (self.folder / "complete.json").unlink()
        except FileNotFoundError:
            return False  # another process found the same, and moves the model aside
        aside = self.folder / "model.damaged"
        shutil.rmtree(aside, ignore_errors=True)
        if self.model_folder.exists():
            os.rename(self.model_folder, aside)
        return False

    def _flaw(self) -> str | None:
        return verify(self.model_folder) or self._config_mismatch() or self._facts_unreadable()

    def _config_mismatch(self) -> str | None:
        try:
            same = json.loads((self.folder / "config.json").read_text(encoding="utf-8")) == json.loads(
                json.dumps(self.config))
        except (OSError, ValueError):
            same = False
        return None if same else f"{self.folder / 'config.json'} does not describe this run"

    def _facts_unreadable(self) -> str | None:
        try:
            self.facts()
        except (OSError, ValueError):
            return f"{self.folder / 'complete.json'} cannot be read"
        return None

    def sound_checkpoint(self) -> Path | None:
        """The checkpoint folder if it is undamaged; a damaged one is named and ignored."""
        for folder in (self.checkpoint_folder, self.checkpoint_folder.with_name("checkpoint.old")):
            if folder.exists():
                wrong = verify(folder)
                if wrong is None:
                    return folder
                print(f"run {self.hash[:16]}: {wrong}; this checkpoint is not used", file=sys.stderr)
        return None

    @contextmanager
    def locked(self, *, wait: bool = False) -> Iterator[None]:
        """Hold the run for this process.

        wait: wait for another process that holds it, which is said once.
        Raises:
            BlockingIOError: if another process holds it and `wait` is not set.
        """
        path = self.folder / "lock"
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                lock = path.open("w")
            except FileNotFoundError:
                continue  # the run was pruned in between
            with lock:
                self._take(lock, wait=wait)
                if not _is_same_file(path, lock):
                    continue  # the run was pruned before this process had it, and its lock with it
                for left in self.folder.glob("*.tmp"):  # of a process that was killed while it wrote
                    shutil.rmtree(left, ignore_errors=True)
                write_json(self.folder / "config.json", self.config)
                yield
                return

    def _take(self, lock: TextIO, *, wait: bool) -> None:
        """Get the lock; one that only looks whether the run is held gives it back at once, so it is waited for."""
        until = time.monotonic() + LOOK_SECONDS
        while time.monotonic() < until:
            try:
                return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(LOOK_SECONDS / 50)
        if not wait:
            raise BlockingIOError(f"another process works on run {self.folder}: wait for it, or stop it")
        # On standard output: of a notebook's prints, only those are seen while it runs.
        print(f"run {self.folder.name}: another process trains it, waiting", flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)  # Ctrl-C ends it

    def complete(self, save_model: Callable[[Path], None], *, facts: dict) -> None:
        """Write the finished model and then, last, complete.json with these facts."""
        with atomic_dir(self.model_folder) as folder:
            save_model(folder)
        write_json(self.folder / "complete.json", facts)
        shutil.rmtree(self.checkpoint_folder, ignore_errors=True)

    def facts(self) -> dict:
        """What complete.json says: wall seconds, updates, bytes seen."""
        return json.loads((self.folder / "complete.json").read_text(encoding="utf-8"))

    def metrics(self) -> list[dict]:
        """The logged updates, oldest first."""
        with self.metrics_path.open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def snapshots(self) -> list[tuple[int, Path]]:
        """Bytes trained and folder of each undamaged model kept on the way, ascending."""
        found = []
        for folder in (self.folder / "snapshots").glob("*"):
            if folder.name.isdigit():
                wrong = verify(folder)
                if wrong is None:
                    found.append((int(folder.name), folder))
                else:
                    print(f"run {self.hash[:16]}: {wrong}; this snapshot is left out", file=sys.stderr)
        return sorted(found)
