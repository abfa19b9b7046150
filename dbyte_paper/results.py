"""Numbers on disk: results/<scale>/<name>.csv, one measured value per row, and <name>.json, where it comes from.

Notebooks write here through a `Recorder`; tables and figures read from here only. A row is tidy: the key columns say
what was measured, `value` is the number, `stderr` its standard error (empty where nothing was sampled, as for a time),
`n` the number of items it is taken over. A file names its own scale, and reading it under another is an error: no table
and no figure ever mixes two scales.
"""

import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pandas as pd

from dbyte.atomic import atomic_write
from dbyte.distill.runs import Run
from dbyte.memory import ask_for_huge_pages
from dbyte.paths import RESULTS, ROOT
from dbyte_paper.provenance import environment

MEASURE = ("value", "stderr", "n")
SIGNIFICANT = "%.6g"  # more digits than anything measured here is exact to, and short enough to read in a diff


@dataclass(frozen=True)
class Recorder:
    """Writes the results of one notebook, each file with the time that its rows took, and reads them back.

    scale, seeds, device: what every file of the notebook is measured with. folder: where results/ is.

        record = results.begin("smoke", seeds=[0])
        with record("stage1", keys=["model", "task"], of=runs[2]) as rows:
            rows += column_rows("stage1", measurer.columns(runs[2].model_folder, "stage1/router"))
        stage1 = record.read("stage1")
    """

    scale: str
    seeds: Sequence[int]
    device: str = "cpu"
    folder: Path = RESULTS

    @contextmanager
    def __call__(self, name: str, *, keys: Sequence[str], of: Run | str) -> Iterator[list[Mapping[str, object]]]:
        """Give an empty list for the rows of <name>.csv, and write it at the end of the block with the block's time.

        keys: the columns that tell one row from another. of: the run that was measured, or the hash of what was.
        A block that fails writes nothing. Raises ValueError as `write_results` does, also where the list stayed empty.
        """
        rows = []
        started = time.monotonic()
        yield rows
        write_results(name, rows, scale=self.scale, keys=keys, seeds=self.seeds, device=self.device,
                      config_hash=of if isinstance(of, str) else of.hash[:16],
                      wall_seconds=time.monotonic() - started, folder=self.folder)

    def read(self, name: str) -> pd.DataFrame:
        """Return the rows of <name>.csv as they are on disk; raises as `read_results` does."""
        return read_results(name, scale=self.scale, folder=self.folder)


def begin(scale: str, *, seeds: Sequence[int], device: str = "cpu") -> Recorder:
    """Print what a notebook runs with, the first of its `seeds` included, and return its recorder.

    A notebook shows the bars of training alone, not one for every file that transformers reads or writes.
    """
    from transformers.utils import logging

    ask_for_huge_pages()
    logging.disable_progress_bar()
    facts = environment(device)
    packages = ", ".join(f"{name} {number or 'missing'}" for name, number in facts["versions"].items())
    print(f"scale    {scale}, seed {seeds[0]}\ndevice   {facts['device']}, {facts['threads']} threads of torch\n"
          f"code     {facts['commit']}\nversions {packages}")
    return Recorder(scale, seeds=seeds, device=device)


def _checked(rows: Sequence[Mapping[str, object]], *, keys: Sequence[str]) -> pd.DataFrame:
    """Return the rows as a sorted frame; raises ValueError where a row is not tidy."""
    frame = pd.DataFrame(list(rows))
    if frame.empty:
        raise ValueError("results need at least one row, found none: extend the list of rows (rows += ...), "
                         "do not replace it (rows = ...)")
    if missing := [column for column in (*keys, *MEASURE) if column not in frame]:
        raise ValueError(f"results need the columns {[*keys, *MEASURE]}, missing {missing}, found {list(frame)}")
    if frame[["value", "n"]].isna().any(axis=None) or (frame["n"] < 1).any():
        raise ValueError("every row needs a number as `value` and at least 1 as `n`: leave out what was not measured")
    if (frame["stderr"] < 0).any():
        raise ValueError("a standard error is at least 0; leave it empty (nan) where nothing was sampled")
    if (again := frame.duplicated(list(keys))).any():
        raise ValueError(f"the keys {list(keys)} name more than one row: {frame[again][list(keys)].to_dict('records')}")
    others = [column for column in frame if column not in (*keys, *MEASURE)]
    return frame.sort_values(list(keys), kind="stable")[[*keys, *MEASURE, *others]]


def write_results(name: str, rows: Sequence[Mapping[str, object]], *, scale: str, keys: Sequence[str],
                  seeds: Sequence[int], config_hash: str, wall_seconds: float, device: str = "cpu",
                  folder: Path = RESULTS) -> Path:
    """Write the tidy `rows`, sorted by `keys`, with their provenance, and return the CSV's path.

    rows: mappings with the `keys`, `value`, `stderr`, `n` and any more columns. wall_seconds: what the measuring took.
    Raises ValueError for rows that are not tidy, a negative wall time, or no seed.
    """
    if not seeds or not math.isfinite(wall_seconds) or wall_seconds < 0:
        raise ValueError(f"results need seeds and a wall time >= 0 s, found seeds={seeds!r}, {wall_seconds!r} s")
    frame = _checked(rows, keys=keys)
    text = frame.to_csv(index=False, float_format=SIGNIFICANT, lineterminator="\n")
    provenance = {
        "name": name,
        "scale": scale,
        "keys": list(keys),
        "text_columns": [column for column in frame if not pd.api.types.is_numeric_dtype(frame[column])],
        "seeds": list(seeds),
        "config_hash": config_hash,
        "wall_seconds": round(wall_seconds, 1),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        **environment(device),
    }
    path = folder / scale / f"{name}.csv"
    # The CSV last: a kill between the two leaves a checksum that does not fit, which reading reports.
    atomic_write(path.with_suffix(".json"), json.dumps(provenance, indent=2) + "\n")
    atomic_write(path, text)
    return path


def read_results(name: str, *, scale: str, folder: Path = RESULTS) -> pd.DataFrame:
    """Return the rows of results/<scale>/<name>.csv.

    `.attrs["provenance"]` holds the sidecar, `.attrs["file"]` the path inside the project. Raises FileNotFoundError
    where they were never made, ValueError where the two files do not belong together (a hand edit, a kill in between)
    or were made at another scale.
    """
    path = folder / scale / f"{name}.csv"
    if not (path.is_file() and path.with_suffix(".json").is_file()):
        shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path  # it may stand in a committed report
        raise FileNotFoundError(f"no results {name!r} at scale {scale!r}: expected {shown} and its .json; "
                                f"make them with: python -m dbyte reproduce --scale {scale}")
    text = path.read_bytes().decode("utf-8")
    provenance = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    if hashlib.sha256(text.encode()).hexdigest() != provenance["sha256"]:
        raise ValueError(f"{path} is not the file its .json describes (edited by hand, or a write did not finish): "
                         f"make it again with: python -m dbyte reproduce --scale {scale}")
    if (provenance["name"], provenance["scale"]) != (name, scale):
        raise ValueError(f"{path} holds {provenance['name']!r} at scale {provenance['scale']!r}: it was moved here; "
                         f"a result of one scale is never read for another")
    header = text.split("\n", 1)[0].split(",")
    words = provenance["text_columns"]  # the step "1.1" is a name, not a number, and the task "NA" not a missing one
    frame = pd.read_csv(StringIO(text), dtype=dict.fromkeys(words, str), keep_default_na=False,
                        na_values={column: [""] for column in header if column not in words})
    frame.attrs = {"provenance": provenance, "file": f"results/{scale}/{name}.csv"}
    return frame


def read_if_any(name: str, *, scale: str, folder: Path = RESULTS) -> pd.DataFrame | None:
    """Return what `read_results` does, None where the results were never made."""
    try:
        return read_results(name, scale=scale, folder=folder)
    except FileNotFoundError:
        return None
