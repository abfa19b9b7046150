"""Runs as a reader sees them: one line each, or all about one."""

import json
from pathlib import Path

from dbyte.distill.inventory import Entry, lineage


def listing(entries: list[Entry]) -> str:
    """One line a run: name, state, step, megabytes trained on, minutes, megabytes on disk, parent."""
    rows = [("run", "state", "step", "trained MB", "minutes", "disk MB", "from")]
    for entry in entries:
        facts = entry.facts or {}
        text = f"{facts['train_bytes'] / 1e6:.1f}" if "train_bytes" in facts else ""
        minutes = f"{facts['seconds'] / 60:.1f}" if "seconds" in facts else ""
        rows.append((entry.name, entry.state(), entry.step, text, minutes, f"{entry.size() / 1e6:.1f}",
                     entry.parent or ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numbers = (3, 4, 5)
    return "\n".join("  ".join(cell.rjust(width) if place in numbers else cell.ljust(width)
                               for place, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
                     for row in rows)


def description(entry: Entry, root: Path) -> str:
    """Lineage, result, last logged update and settings of one run."""
    line = " -> ".join(f"{other.name} ({other.step})" for other in lineage(entry, root))
    metrics = entry.folder / "metrics.jsonl"
    logged = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    return "\n".join([f"{entry.folder}: {entry.state()}, {entry.size() / 1e6:.1f} MB", f"lineage: {line}",
                      f"finished: {json.dumps(entry.facts) if entry.facts else 'not yet'}",
                      f"last logged update: {logged[-1] if logged else 'none'}",
                      "settings: " + json.dumps(entry.config, indent=1, sort_keys=True)])
