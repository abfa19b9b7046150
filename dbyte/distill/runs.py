"""Runs on disk: each at an address (a hash of its content), resumed exactly, and never half-written.

    runs/<hash>/config.json        what was run: step, parent, data, versions of the layout
    runs/<hash>/notes.json         who asked for it: scale, notebook or command, variant
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from safetensors import SafetensorError

from dbyte.atomic import atomic_write, explain_full_disk
from dbyte.paths import RUNS
from dbyte.presets import TEACHERS

SCHEMA = 3  # raise it when old runs must not be mistaken for new ones
# The variables in which the runner tells a notebook's kernel its name and its scale's.
NOTEBOOK, NOTEBOOK_SCALE = "DBYTE_NOTEBOOK", "DBYTE_NOTEBOOK_SCALE"


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


def read_json(path: Path) -> dict:
    """The content of a JSON file; raises OSError or ValueError."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value: object) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part."""
    atomic_write(path, as_json(value))


def as_json(value: object) -> str:
    """A value as `write_json` writes it."""
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def noted(scale: str, variant: str = "") -> dict[str, str]:
    """The notes of a run that is about to be planned; no part of its address, since other commands may need it too."""
    program = "train" if "train" in sys.argv[1:] else Path(sys.argv[0]).stem
    return {"scale": scale or os.environ.get(NOTEBOOK_SCALE, ""), "asked by": os.environ.get(NOTEBOOK) or program,
            "variant": variant}


def model_folder(folder: Path) -> Path:
    """The model of a run, if this is the folder of a run; any other folder or hub name as it is.

    Raises:
        FileNotFoundError: if the run is not finished.
    """
    if (folder / "complete.json").is_file():
        return folder / "model"
    if (folder / "metrics.jsonl").is_file():
        raise FileNotFoundError(f"{folder} is a run that is not finished, so it holds no model yet: the command that "
                                "began it continues it")
    return folder


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def atomic_dir(folder: Path, *, needed: int = 0) -> Iterator[Path]:
    """Give a temporary folder to fill; on success seal it with checksums and rename it to `folder`, else remove it.

    needed: about how many bytes it will have, for the message of a full disk; 0: not known.
    Raises:
        OSError: from the disk (a full one included); `folder` is then as it was, or next to it as `.old`.
    """
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        explain_full_disk(folder.parent, error)
        raise OSError(f"{folder} cannot be written ({error.strerror}): name a place that can") from error
    try:
        yield temporary
        write_json(temporary / "sums.json", checksums(temporary))
        mode = (temporary / "sums.json").stat().st_mode  # the umask's: safetensors writes files for their owner alone
        for path in filter(Path.is_file, temporary.rglob("*")):
            path.chmod(mode)
        previous = folder.with_name(folder.name + ".old")
        shutil.rmtree(previous, ignore_errors=True)
        if folder.exists():
            os.rename(folder, previous)
        os.rename(temporary, folder)
        shutil.rmtree(previous, ignore_errors=True)
    except (SafetensorError, OSError) as error:
        explain_full_disk(folder, error, needed=needed, written=folder_bytes(temporary))
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold a lock file; while another process holds it, wait, after a message."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("w")
            _wait_for(file, name=path.parent.name)
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                break
        except FileNotFoundError:
            pass  # its folder was pruned in between
    with file:
        yield


def _wait_for(file: TextIO, *, name: str) -> None:
    """Lock an open file, once no other process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        # On standard output: of a notebook's prints, only those are seen while it runs.
        print(f"{name}: another process works on it, waiting", flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder but its own sums.json, by relative name."""
    return {str(path.relative_to(folder)): file_hash(path) for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != "sums.json"}


def verify(folder: Path) -> str | None:
    """Say what is wrong with a sealed folder; None if every file is as it was written."""
    try:
        expected = read_json(folder / "sums.json")
    except (OSError, ValueError) as error:
        return f"{folder / 'sums.json'} cannot be read ({error})"
    if (folder / "sums.json").read_text(encoding="utf-8") != as_json(expected):  # it has no sum of its own
        return f"{folder / 'sums.json'} is damaged"
    found = checksums(folder)
    for name in sorted(expected):  # nobody reads a file that was added later
        if expected[name] != found.get(name):
            return f"{folder / name} is {'damaged' if name in found else 'missing'}"
    return None


def is_sound(folder: Path) -> bool:
    """True if a sealed folder exists and is undamaged; a damaged one is named."""
    wrong = verify(folder) if folder.exists() else None
    if wrong:
        print(f"{wrong}; {folder.name} is not used", file=sys.stderr)
    return folder.exists() and not wrong


class Run:
    """One content-addressed run folder; making the object writes nothing.

    notes: written to notes.json when it is trained. The hash of config, with the parent's, is the address.
    """

    def __init__(
        self, config: dict, *, parent: "Run | None" = None, root: Path = RUNS, notes: dict[str, str] | None = None
    ):
        self.notes = notes
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
        """True for a finished, undamaged model; a damaged one is named, and counts as not trained from then on."""
        if not (self.folder / "complete.json").exists():
            return False
        wrong = self._flaw()
        if wrong is None:
            return True
        print(f"run {self.hash[:16]}: {wrong}; the run is done again", file=sys.stderr)
        (self.folder / "complete.json").unlink(missing_ok=True)  # another process may have found the same
        return False

    def _flaw(self) -> str | None:
        """Say what is wrong with a finished run; None if nothing is."""
        try:
            self.facts()
            if read_json(self.folder / "config.json") != json.loads(json.dumps(self.config)):
                return f"{self.folder / 'config.json'} does not describe this run"
        except (OSError, ValueError) as error:
            return f"config.json or complete.json cannot be read ({error})"
        return verify(self.model_folder)

    def sound_checkpoint(self) -> Path | None:
        """The checkpoint folder if it is undamaged; a damaged one is named and ignored."""
        both = [self.checkpoint_folder, self.checkpoint_folder.with_name("checkpoint.old")]
        return next(filter(is_sound, both), None)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's lock; while another process holds it, wait."""
        with file_lock(self.folder / "lock"):
            for left in self.folder.glob("*.tmp"):  # of a process that was killed while it wrote
                shutil.rmtree(left, ignore_errors=True)
            write_json(self.folder / "config.json", self.config)
            if self.notes:
                write_json(self.folder / "notes.json", self.notes)
            yield

    def complete(self, save_model: Callable[[Path], None], *, facts: dict, needed: int = 0) -> None:
        """Write the finished model (of about `needed` bytes) and then, last, complete.json with these facts."""
        with atomic_dir(self.model_folder, needed=needed) as folder:
            save_model(folder)
        write_json(self.folder / "complete.json", facts)
        shutil.rmtree(self.checkpoint_folder, ignore_errors=True)

    def facts(self) -> dict:
        """What complete.json says: wall seconds, updates, bytes seen."""
        return read_json(self.folder / "complete.json")

    def metrics(self) -> list[dict]:
        """The logged updates, oldest first."""
        with self.metrics_path.open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def snapshots(self) -> list[tuple[int, Path]]:
        """Bytes trained and folder of each undamaged model kept on the way, ascending."""
        folders = [folder for folder in (self.folder / "snapshots").glob("*") if folder.name.isdigit()]
        return sorted((int(folder.name), folder) for folder in folders if is_sound(folder))
