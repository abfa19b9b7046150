"""What a file of scales/ may hold: the keys of its tables, the types of its values, and the refusal of all others.

Types are exact: 1 is no float and 1.0 is no int, since the addresses of runs hash both, and differently.
"""

import tomllib
from dataclasses import dataclass, is_dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import UnionType
from typing import get_args, get_origin, get_type_hints

# The tables [student], [stage1] and [stage2] are arguments of StudentConfig and of the functions in distill/steps.py.
# Those need torch, so they are not imported here: tests/test_presets.py compares names and types.
STUDENT = dict(
    byte_width=int, encoder_layers=int, decoder_layers=int, ffn_width=int, state_size=int, conv_width=int, expand=int,
    head_width=int, chunk_size=int, encoder_mixer=str, encoder_window=int, router=str, router_ffn_width=int,
    router_width=int, router_layers=int, smoothing=bool, confidence=bool)
STAGE1 = dict(
    align_bytes=int, distill_bytes=int, boundary_bytes=int, boundary_loss=bool, align_rate=float, encoder_rate=float,
    core_rate=float, boundary_rate=float, align_muon=float, encoder_muon=float, boundary_muon=float,
    boundary_floor=float, snapshots=int)
STAGE2 = dict(
    head_bytes=int, full_bytes=int, head_rate=float, outer_rate=float, core_rate=float, boundary_loss=bool)


@dataclass(frozen=True)
class Lesson:
    """What a teacher reads before its next lesson: corpora as in `Scale`, and how many bytes of them."""

    corpora: tuple[tuple[str, int], ...]
    train_bytes: int


def read_all(scale: type, shape: type) -> list[tuple]:
    """What `read` returns for each file of scales/, from the least training text to the most."""
    found = [read(file, scale, shape) for file in files("dbyte").joinpath("scales").iterdir()
             if file.name.endswith(".toml")]
    return sorted(found, key=lambda pair: (sum(size for _, size in pair[0].corpora), pair[0].name))


def read(file: Traversable, scale: type, shape: type) -> tuple[object, dict | None]:
    """Read a file NAME.toml: the scale NAME, and its table [whole_world] (None if there is none).

    scale, shape: the classes `Scale` and `TeacherShape` of presets, which imports this module. A table in [teachers]
    says what differs from the table [teacher]. Raises ValueError as `typed` does.
    """
    keys = get_type_hints(scale) | {"student": STUDENT, "stage1": STAGE1, "stage2": STAGE2}
    keys["whole_world"] = {"teacher": get_type_hints(shape), "lessons": tuple[Lesson, ...]}
    del keys["name"], keys["continues"]  # the file's name; made by `presets.whole_world`
    table = tomllib.loads(file.read_text(encoding="utf-8"))
    teacher, others = table.get("teacher"), table.get("teachers")
    if isinstance(teacher, dict) and isinstance(others, dict):
        table["teachers"] = {name: teacher | one if isinstance(one, dict) else one for name, one in others.items()}
    values = typed(table, keys, file.name)
    whole = values.pop("whole_world", None)
    return _made(scale, {"name": file.name.removesuffix(".toml"), **values}, file.name), whole


def typed(value: object, kind: object, where: str) -> object:
    """Turn a value of a file into `kind`, which is a type, a union of types, or a dict from keys to kinds.

    A table becomes a dataclass, or a dict if `kind` is one; an array becomes a tuple; any other value stays. where: the
    file and the key, for messages. Raises ValueError for an unknown key, a missing one, another type, or a value that
    the dataclass refuses.
    """
    for choice in get_args(kind) if isinstance(kind, UnionType) else (kind,):
        if type(value) is choice:
            return value
        if isinstance(value, list) and get_origin(choice) is tuple:
            kinds = get_args(choice)
            if kinds[-1] is ...:
                kinds = kinds[:1] * len(value)
            if len(kinds) == len(value):
                return tuple(typed(one, expected, where) for one, expected in zip(value, kinds, strict=True))
        if isinstance(value, dict) and isinstance(choice, dict):
            return _table(value, choice, where)
        if isinstance(value, dict) and is_dataclass(choice):
            return _made(choice, _table(value, get_type_hints(choice), where), where)
    name = "a table" if isinstance(kind, dict) or is_dataclass(kind) else getattr(kind, "__name__", kind)
    raise ValueError(f"{where} must be {name}, found {value!r}")


def _table(table: dict, known: dict, where: str) -> dict:
    """A table's values as the kinds of `known`; ValueError for a key that is not in it."""
    if unknown := [name for name in table if name not in known]:
        raise ValueError(f"{where} has an unknown key {', '.join(unknown)}: choose from {', '.join(known)}")
    return {name: typed(value, known[name], f"{where}: {name}") for name, value in table.items()}


def _made(kind: type, values: dict, where: str) -> object:
    """A dataclass of these values; ValueError that names the file if a field is missing or a value is refused."""
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None
