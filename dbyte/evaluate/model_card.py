"""A finished run on the hub: its model, its tokenizer, and a card that says what it was made of and what it scored.

The card is generated from the run and those before it, and from what `python -m dbyte evaluate` measured of this model.
What no file says (the licences of teacher and text, what the model is fit for) the card names as not known.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, HTTPError
from safetensors import safe_open

from dbyte.distill.run_list import Entry, lineage
from dbyte.distill.runs import content_hash, file_hash, read_json, verify
from dbyte.model.teacher import load_tokenizer
from dbyte.paths import RUNS
from dbyte.text.spans import TokenBytes, listed
from dbyte.version import __version__

CARD = """---
library_name: dbyte
pipeline_tag: text-generation
tags: [byte-level, distillation, dbyte, "arxiv:2602.01007"]
---

# {title}

A byte-level language model of Stage {stage} (it writes {writes}), made by dbyte {version} from a {family} teacher as in
[Distilling Token-Trained Models into Byte-Level Models](https://arxiv.org/abs/2602.01007). It reads UTF-8 bytes.

```python
import dbyte

student = dbyte.ByteStudent.from_pretrained("{title}")
dbyte.generate(student, ["Anna lives in"], max_new_bytes=64)
```

## Recipe

| step | objective | trains (peak rate) | MB | updates | seed | loss at the end | run |
|---|---|---|---:|---:|---:|---:|---|
{recipe}

{parameters:,} parameters, {precision}; row and batch as in scale `{scale}`. Teacher: `{teacher}`.

## Data

SHA-256 of what each step read (the packed rows, or the description of a stream), and of the weights that resulted:

{data}

## Results

{results}

## Limits

- Trained on {megabytes:,.4g} MB in all, by one seed: another seed gives another model.
- A document has at most {positions:,} chunks. {missing}
- No chat template, no tuning to instructions or for safety beyond the teacher's. What the text and the teacher carry,
  this model carries.
- The licences of the teacher and of the text are not in the run's files: whoever publishes the model states them.
"""
HEAD = "| task | metric | n | chance | this model | its teacher |\n|---|---|---:|---:|---:|---:|"
UNMEASURED = "No evaluation of this model was found: `python -m dbyte evaluate --model runs/{folder}` makes one."


def finished(folder: Path) -> Entry:
    """The run in a folder, or around a model folder; ValueError if there is none, or it is not finished or damaged."""
    run = folder.resolve().parent if folder.resolve().name == "model" else folder.resolve()
    entry = Entry(run)
    if entry.state() != "complete" or not (run / "model" / "config.json").is_file():
        raise ValueError(f"{folder} is no finished run: name a folder that `python -m dbyte train` printed, since a "
                         "card says how the model was trained")
    if read_json(run / "model" / "config.json").get("model_type") != "dbyte":
        raise ValueError(f"{folder} holds no student: a card is made for students")
    if wrong := verify(run / "model"):
        raise ValueError(f"{wrong}: train it again (the same command does) before it is published")
    return entry


def model_card(folder: Path, *, title: str = "", evaluated: Path | None = None) -> str:
    """The card of a finished run in Markdown; title: its name on the hub, or the folder.

    evaluated: where the JSON of `evaluate` lies, by default runs/evaluated. Raises ValueError as `finished` does.
    """
    entry = finished(folder)
    model = entry.folder / "model"
    config = read_json(model / "config.json")
    runs = lineage(entry, entry.folder.parent)
    missing = TokenBytes.from_tokenizer(load_tokenizer(model)).missing_bytes
    return CARD.format(
        title=title or folder, stage=config["stage"], writes={1: "tokens", 2: "bytes"}[config["stage"]],
        version=config.get("dbyte_version") or __version__, family=config["core_config"]["model_type"],
        recipe="\n".join(map(_row, runs)), parameters=_parameters(model), precision=entry.config["precision"],
        scale=entry.notes.get("scale", "not recorded"), teacher=entry.config["teacher"],
        data="\n".join(f"- {run.step}: `{_read(run)}` -> `{_weights(run)}`" for run in runs),
        results=_results(entry, evaluated or RUNS / "evaluated"),
        megabytes=sum(run.facts["train_bytes"] for run in runs if run.config["step"]["stage"]) / 1e6,
        positions=config["core_config"]["max_position_embeddings"],
        missing=f"It cannot read the bytes {listed(missing)}." if missing else "It can read every text.")


def push_to_hub(folder: str | Path, name: str, *, private: bool = False) -> str:
    """Upload a finished student with its tokenizer and card to the repository `name` on the hub; returns its address.

    Raises ValueError as `finished` does or for an impossible name, and ConnectionError where the hub cannot be reached
    or refuses.
    """
    card = model_card(Path(folder), title=name)
    hub = HfApi()
    try:
        address = hub.create_repo(name, private=private, exist_ok=True)
        model = finished(Path(folder)).folder / "model"
        hub.upload_folder(repo_id=name, folder_path=model, ignore_patterns=["config.json", "sums.json"])
        config = json.dumps(without_paths(read_json(model / "config.json")), indent=2)
        for path, text in (("config.json", config), ("README.md", card)):
            hub.upload_file(repo_id=name, path_or_fileobj=text.encode(), path_in_repo=path)
    except HFValidationError as error:
        raise ValueError(f"{name!r} can be no name on the hub ({error}): expected user/name") from error
    except (HTTPError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ConnectionError(f"{name} could not be written on the hub ({reason}): log in (`hf auth login`) as someone "
                              "who may write there, unset $HF_HUB_OFFLINE, or give another name") from error
    return str(address)


def without_paths(config: dict) -> dict:
    """A config without the folders that it and the configs in it were read from, which are this machine's own."""
    return {name: without_paths(value) if isinstance(value, dict) else value for name, value in config.items()
            if name != "_name_or_path"}


def _row(run: Entry) -> str:
    """A step of the recipe as a row of its table."""
    step = run.config["step"]
    trains = "; ".join(f"{', '.join(part or 'all' for part in group['parts'])} ({group['rate']:g}"
                       + f", Muon {group['muon_rate']:g}" * bool(group["muon_rate"]) + ")" for group in step["groups"])
    last = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    return (f"| {run.step} | {step['objective']} | {trains} | {run.facts['train_bytes'] / 1e6:,.3g} | "
            f"{run.facts['updates']:,} | {run.config['seed']} | {json.loads(last)['loss']:.4g} | `{run.name}` |")


def _read(run: Entry) -> str:
    """The hash of the data that a run read."""
    data = run.config["data"]
    return data if isinstance(data, str) else content_hash(data)


def _weights(run: Entry) -> str:
    """The SHA-256 of a run's weights."""
    return ", ".join(file_hash(path) for path in sorted((run.folder / "model").glob("*.safetensors")))


def _parameters(model: Path) -> int:
    """How many numbers the weights have, without the table of the teacher's tokens."""
    count = 0
    for path in model.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys()
                         if name not in ("token_table", "token_offset"))
    return count


def _results(entry: Entry, evaluated: Path) -> str:
    """What every evaluation of this run scored, as tables; accuracies in percent with their standard errors."""
    tables = []
    for path in sorted(evaluated.glob("*.json")):
        found = read_json(path)
        asked = Path(found["asked"]["model"] or ".").resolve()
        if asked in (entry.folder, entry.folder / "model") and "student" in found:
            lines = [f"| {task} | {one['metric']} | {one['n']} | {100 * one['chance']:.1f} | {_accuracy(one)} | "
                     f"{_accuracy(found['teacher'][task]) if 'teacher' in found else 'not asked'} |"
                     for task, one in found["student"].items()]
            read = found["facts"]["read"]
            tables.append("\n".join([f"Stage {read['stage']}, {read['boundaries']}'s boundaries, seed "
                                     f"{found['asked']['seed']}:\n", HEAD, *lines]))
    return "\n\n".join(tables) or UNMEASURED.format(folder=entry.folder.name)


def _accuracy(one: Mapping[str, float]) -> str:
    return f"{100 * one['accuracy']:.1f} ± {100 * one['stderr']:.1f}"
