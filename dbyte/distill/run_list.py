"""The runs in `runs/`: listed, shown with their lineage, verified against their checksums, pruned if unused.

Nothing here trains or loads a model; a folder that another process holds is never touched.
"""

import fcntl
import json
import math
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from dbyte.distill.runs import SCHEMA, content_hash, folder_bytes, model_hash, read_json, verify


class Entry:
    """One run folder on disk; `config` is empty if config.json cannot be read, `facts` if the run is not finished.

    notes: which scale, command and variant asked for it, empty if not recorded. name: its sixteen hexadecimal digits.
    parent: the name of the run that this one continues, or "". step: the name of its step, `?` if not known.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.config = _json(folder / "config.json")
        self.facts = _json(folder / "complete.json")
        self.notes = _json(folder / "notes.json")
        self.name = folder.name
        self.parent = (self.config.get("parent") or "")[:16]
        self.step = self.config.get("step", {}).get("name", "?")

    def state(self) -> str:
        """`complete`, `running` (a process holds it), `resumable` (it has a checkpoint), `begun` or `foreign`."""
        if content_hash(self.config)[:16] != self.name:
            return "foreign"
        if self.facts:
            return "complete"
        if is_held(self.folder):
            return "running"
        return "resumable" if (self.folder / "checkpoint").exists() else "begun"


def is_held(folder: Path) -> bool:
    """True while a process holds the run's lock."""
    try:
        with (folder / "lock").open() as file:  # shared, so that two readers do not block each other
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError) as error:
        return isinstance(error, BlockingIOError)
    return False


def entries(root: Path) -> list[Entry]:
    """Every run folder below `root`, by step and name; folders of other kinds (data, measured) are skipped."""
    found = [Entry(folder) for folder in root.glob("*")
             if folder.is_dir() and re.fullmatch("[0-9a-f]{16}", folder.name)]
    return sorted(found, key=lambda entry: (entry.step, entry.name))


def find(name: str, root: Path) -> Entry:
    """The run whose name begins with `name`; ValueError unless there is exactly one."""
    matching = [entry for entry in entries(root) if name and entry.name.startswith(name)]
    if len(matching) != 1:
        what = "none does" if not matching else ", ".join(entry.name for entry in matching)
        raise ValueError(f"one run in {root} must begin with {name!r}, but {what}: `python -m dbyte runs` lists them")
    return matching[0]


def lineage(entry: Entry, root: Path) -> list[Entry]:
    """The run and its ancestors, oldest first, as far as they are still on disk; the teacher's run is the first."""
    everything = {other.name: other for other in entries(root)}
    line = [entry]
    while line[0].parent in everything:
        line.insert(0, everything[line[0].parent])
    teacher = entry.config.get("teacher")
    trained = [other for other in everything.values() if isinstance(teacher, str) and other.facts
               and other.step.startswith("0 ") and model_hash(other.folder / "model") == teacher]
    return trained + line


def problems(entry: Entry) -> list[str]:
    """What is wrong with a run's files, by name; empty if all are as they were written."""
    wrong = []
    if entry.state() == "foreign":
        wrong.append(f"{entry.folder / 'config.json'} cannot be read or does not describe this run")
    elif entry.config.get("schema") != SCHEMA:
        wrong.append(f"{entry.folder} has layout {entry.config.get('schema')}, this version reads {SCHEMA}")
    sealed = [path for path in (entry.folder / "checkpoint", *entry.folder.glob("snapshots/*")) if path.exists()]
    if entry.facts:
        sealed.append(entry.folder / "model")
    return wrong + [found for folder in sealed if (found := verify(folder))]


def leftovers(root: Path) -> list[Path]:
    """What killed processes left: temporary and replaced folders of runs that no process holds."""
    found = [*root.glob("*.removed.tmp"), *root.glob("data/*.tmp")]
    for entry in entries(root):
        inside = [*entry.folder.glob("*"), *entry.folder.glob("snapshots/*")]
        left = [path for path in inside if path.is_dir() and path.suffix in (".tmp", ".old")]
        only_checkpoint = entry.folder / "checkpoint.old"
        if only_checkpoint in left and verify(entry.folder / "checkpoint"):
            left.remove(only_checkpoint)
        if not is_held(entry.folder):
            found += left
    return sorted(found)


def unused(root: Path, results: Path) -> list[Entry]:
    """Runs that no result needs (no file in results/ names them or a run that continues them) and no process holds."""
    cited = {_json(path).get("config_hash") for path in results.glob("*/*.json")}
    needed = {relative.name for entry in entries(root) if entry.name in cited for relative in lineage(entry, root)}
    return [entry for entry in entries(root) if entry.name not in needed and not is_held(entry.folder)]


def descendants(entry: Entry, root: Path) -> list[Entry]:
    """The run and all that continue it, children last."""
    found = [entry]
    everything = entries(root)
    for parent in found:
        found += [other for other in everything if other.parent == parent.name]
    return found


def remove(folders: Iterable[Path]) -> int:
    """Remove folders, each first renamed so that a half-removed one is not taken for a run; returns the bytes freed.

    Raises:
        BlockingIOError: if a process holds one of them; folders before it are gone, those after it stay.
    """
    freed = 0
    for folder in folders:
        if is_held(folder):
            raise BlockingIOError(f"another process works on run {folder}: wait for it, or stop it")
        freed += folder_bytes(folder)
        if not folder.name.endswith(".tmp"):
            folder = folder.rename(folder.with_name(folder.name + ".removed.tmp"))
        shutil.rmtree(folder)
    return freed


def listing(found: list[Entry]) -> str:
    """One line per run: name, state, step, who asked, seed, MB trained on, minutes, MB on disk, parent."""
    import pandas as pd

    asked = ("scale", "asked by", "variant")
    rows = [(entry.name, entry.state(), entry.step, *(entry.notes.get(name, "") for name in asked),
             str(entry.config.get("seed", "")), entry.facts.get("train_bytes", math.nan) / 1e6,
             entry.facts.get("seconds", math.nan) / 60, folder_bytes(entry.folder) / 1e6, entry.parent)
            for entry in found]
    columns = ["run", "state", "step", *asked, "seed", "trained MB", "minutes", "disk MB", "from"]
    table = pd.DataFrame(rows, columns=columns)
    return table.to_string(index=False, na_rep="", float_format="{:.1f}".format) if rows else "no runs"


def description(entry: Entry, root: Path) -> str:
    """The table of a run's lineage, then its last logged update, result and settings as JSON."""
    metrics = entry.folder / "metrics.jsonl"
    last = metrics.read_text(encoding="utf-8").splitlines()[-1:] if metrics.exists() else []
    rest = json.dumps({"result": entry.facts, "settings": entry.config}, indent=1, sort_keys=True)
    return "\n".join([listing(lineage(entry, root)), *last, rest])


def _json(path: Path) -> dict:
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}
