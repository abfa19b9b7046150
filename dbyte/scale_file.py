"""What the file of a scale may hold: the keys of its tables, the types of its values, and errors for all others.

A file is one of scales/ or a user's, which may change a built-in scale: `base = "small"`. Types are exact, since the
addresses of runs hash 1 and 1.0 differently: where a file says 20e6 for a whole number or 1 for a decimal one, that
number of the right type is meant.
"""

import hashlib
import json
import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from difflib import get_close_matches
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import NoneType, UnionType
from typing import get_args, get_origin, get_type_hints

BUILT_IN = {file.name.removesuffix(".toml"): file for file in files("dbyte").joinpath("scales").iterdir()
            if file.name.endswith(".toml")}
# The tables [student], [stage1] and [stage2] are arguments of StudentConfig and of the functions in distill/steps.py.
# Those need torch, so they are not imported here: tests/test_presets.py compares names and types.
STUDENT = dict(
    byte_width=int, encoder_layers=int, decoder_layers=int, ffn_width=int, state_size=int, conv_width=int, expand=int,
    head_width=int, chunk_size=int, encoder_mixer=str, encoder_window=int, router=str, router_ffn_width=int,
    router_width=int, router_layers=int, router_suffixes=int, smoothing=bool, confidence=bool, suffix=bool)
STAGE1 = dict(
    align_bytes=int, distill_bytes=int, boundary_bytes=int, boundary_loss=bool, align_rate=float, encoder_rate=float,
    core_rate=float, boundary_rate=float, align_muon=float, encoder_muon=float, boundary_muon=float,
    boundary_floor=float, snapshots=int, vocabulary=float, noisy=float, core_lora=int)
STAGE2 = dict(
    head_bytes=int, full_bytes=int, head_rate=float, outer_rate=float, core_rate=float, head_muon=float,
    boundary_loss=bool, decoding=str, core_lora=int, targets=str, own_bytes=int, batch_rows=int)
# The steps' bytes, which have no default.
STEP_BYTES = {"stage1": ("align_bytes", "distill_bytes", "boundary_bytes"), "stage2": ("head_bytes", "full_bytes")}
MOST = 10**15  # of what is counted: no text has so many bytes
# The least and the most that a number may be, by the first pattern that its name fits, its table in front.
RANGES = (
    ("vocabulary", 258, 10**7),  # 256 bytes, BOS and EOS
    (r"student: (ffn_width|encoder_window|router_ffn_width|router_suffixes)|.*kv_heads"  # 0: without such a part
     r"|stage\d: (core_lora|batch_rows)", 0, 10**6),
    (".*(width|layers|heads|state_size|chunk_size|expand|rows|rows_at_once)", 1, 10**6),
    (r"stage\d: (snapshots|own_bytes)", 0, MOST),
    (".*betas", 0, 0.99999), ("recipe_share", 1e-3, 1),
    (".*(rate|muon|floor|share|warmup|initial_std)|stage1: (vocabulary|noisy)", 0, 1),
    ("temperature", 0, 1000), (".*doses|budgets", 1e-3, 1000),
    (".*", 1, MOST))
TEXT = "DBYTE_TEXT"  # the variable that names a folder of text, for a corpus file:$DBYTE_TEXT
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text in quotes"}


@dataclass(frozen=True)
class Lesson:
    """What a teacher reads before its next lesson: corpora as in `Scale`, and how many bytes of them."""

    corpora: tuple[tuple[str, int], ...]
    train_bytes: int

    def __post_init__(self):
        check_numbers(vars(self))


def check_numbers(values: Mapping[str, object], table: str = "") -> None:
    """Raise ValueError for a number out of its range in RANGES; table: the beginning of its message."""
    for name, value in values.items():
        least, most = next(limits for pattern, *limits in RANGES if re.fullmatch(pattern, f"{table}{name}"))
        for one in value if isinstance(value, tuple) else (value,):
            within, number = (f": {one[0]}", one[-1]) if isinstance(one, tuple) else ("", one)  # a corpus and its bytes
            if type(number) in (int, float) and not least <= number <= most:
                bound = f"at most {most:,}" if number > most else f"at least {least}"
                raise ValueError(f"{table}{name}{within} must be {bound}, found {number}")


def present(corpora: tuple[tuple[str, int], ...], scale: str) -> tuple[tuple[str, int], ...]:
    """The corpora of a scale, without those in $DBYTE_TEXT if that is not set; ValueError if none is left."""
    found = tuple(each for each in corpora if TEXT not in each[0] or os.environ.get(TEXT))
    if not found:
        raise ValueError(f"scale {scale} trains on text of your own: set ${TEXT} to a folder of .txt or .jsonl files")
    return found


def read_all(scale: type, shape: type) -> list:
    """One scale for each file of scales/, in ascending order of their training text."""
    found = [read(file, scale, shape) for file in BUILT_IN.values()]
    return sorted(found, key=lambda one: (sum(size for _, size in one.corpora), one.name))


def read(file: Traversable, scale: type, shape: type, settings: tuple[str, ...] = ()) -> object:
    """Read a file NAME.toml: the scale NAME, or NAME-xxxxxx with settings, where xxxxxx is a hash of them.

    scale, shape: the classes `Scale` and `TeacherShape` of presets, which imports this module. A table in [teachers],
    or in its list of sizes, says what differs from the table [teacher]. settings: see `setting`. Raises ValueError as
    `typed` does, and for a file that is no TOML or has another base than a built-in scale.
    """
    keys = get_type_hints(scale) | {"student": STUDENT, "stage1": STAGE1, "stage2": STAGE2}
    keys["whole_world"] = {"teacher": get_type_hints(shape), "lessons": tuple[Lesson, ...]}
    del keys["name"], keys["continues"]  # the file's name; made by `presets.whole_world`
    name = file.name.removesuffix(".toml")
    where = file.name
    own = _load(file)
    base = own.pop("base", None)
    table = typed(own, keys, where, whole=False)
    if base is not None:
        if base not in sorted(BUILT_IN):
            raise ValueError(f"{where}: base must be one of {', '.join(sorted(BUILT_IN))}, found {base!r}")
        table = merged(_load(BUILT_IN[base]), table)
    if settings:
        given = {}
        for text in settings:
            given = merged(given, typed(setting(text), keys, f"setting {text!r}", whole=False))
        name += "-" + hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()[:6]
        where += f" with {', '.join(settings)}"
        table = merged(table, given)
    teacher, others = table.get("teacher"), table.get("teachers")
    if isinstance(teacher, dict) and isinstance(others, dict):
        def full(one: object) -> object:
            return teacher | one if isinstance(one, dict) else one

        table["teachers"] = {key: tuple(map(full, one)) if isinstance(one, list | tuple) else full(one)
                             for key, one in others.items()}
    return _made(scale, {"name": name, **typed(table, keys, where)}, where)


def _load(file: Traversable) -> dict:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file.name} is no TOML: {error}") from None


def setting(text: str) -> dict:
    """The tables of FIELD=VALUE, such as `stage1.align_bytes=20e6`: a key and a value of TOML, dots in the key.

    A value that is no TOML is taken as a text: `teacher=/path/to/model`. Raises ValueError for anything else.
    """
    field, equals, value = text.partition("=")
    for line in (text, f"{field}={json.dumps(value.strip(), ensure_ascii=False)}"):
        try:
            if equals:
                return tomllib.loads(line)
        except tomllib.TOMLDecodeError:
            continue
    raise ValueError(f"a setting is FIELD=VALUE, such as stage1.align_bytes=20e6 or teacher=/path, found {text!r}")


def merged(base: dict, over: dict) -> dict:
    """The tables of `base` with those of `over` in them; any other value replaces the one of `base`.

    If `over` names a teacher where `base` gives sizes, the table [teachers] of `base` is dropped: it builds on them.
    """
    if isinstance(over.get("teacher"), str) and isinstance(base.get("teacher"), dict):
        base = {key: value for key, value in base.items() if key != "teachers"}
    return base | {key: merged(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict)
                   else value for key, value in over.items()}


def as_toml(scale: object) -> str:
    """The text of a file that `read` turns into this scale, if it has the scale's name."""
    values = {key: value for key, value in asdict(scale).items()
              if value is not None and key not in ("name", "continues")}
    lines = [f"{key} = {_literal(value)}" for key, value in values.items() if not isinstance(value, dict)]
    for key, table in values.items():
        if isinstance(table, dict):
            lines += ["", f"[{key}]", *(f"{name} = {_literal(value)}" for name, value in table.items())]
    return "\n".join(lines) + "\n"


def _literal(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_literal(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if type(value) is int:
        return f"{value:_}"
    return json.dumps(value, ensure_ascii=False)  # a text, decimal number or truth value is written as in JSON


def typed(value: object, kind: object, where: str, *, whole: bool = True) -> object:
    """Turn a value of a file into `kind`, which is a type, a union of types, or a dict from keys to such kinds.

    A table becomes a dataclass, or a dict if `kind` is one; an array becomes a tuple, a number is converted to the type
    of `kind`; any other value stays. where: the file and the key, for messages. whole: False leaves all tables dicts,
    which may lack keys. Raises ValueError for an unknown key, a missing one, another type, or a value that the
    dataclass refuses.
    """
    for choice in get_args(kind) if isinstance(kind, UnionType) else (kind,):
        if type(value) is choice and (choice is not float or math.isfinite(value)):
            return value
        if choice is float and type(value) is int or choice is int and type(value) is float and value.is_integer():
            return choice(value)
        if isinstance(value, list | tuple) and get_origin(choice) is tuple:
            kinds = get_args(choice)
            if kinds[-1] is ...:
                kinds = kinds[:1] * len(value)
            if len(kinds) == len(value):
                return tuple(typed(one, expected, where, whole=whole)
                             for one, expected in zip(value, kinds, strict=True))
        if isinstance(value, dict) and isinstance(choice, dict):
            return _table(value, choice, where, whole)
        if isinstance(value, dict) and is_dataclass(choice):
            table = _table(value, get_type_hints(choice), where, whole)
            return _made(choice, table, where) if whole else table
    raise ValueError(f"{where} must be {_words(kind)}, found {value!r}")


def _words(kind: object) -> str:
    """How a message calls a value of this kind."""
    if isinstance(kind, UnionType):
        return " or ".join(_words(one) for one in get_args(kind) if one is not NoneType)
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        return f"an array of {_words(kinds[0])}" if kinds[-1] is ... else f"[{', '.join(map(_words, kinds))}]"
    return "a table" if isinstance(kind, dict) else WORDS.get(kind, "a table")


def _table(table: dict, known: dict, where: str, whole: bool) -> dict:
    """A table's values as the kinds of `known`; ValueError for a key that is not in it."""
    for name in table:
        if name not in known:
            near = "".join(f" (did you mean {one}?)" for one in get_close_matches(name, known, n=1))
            raise ValueError(f"{where} has an unknown key {name}{near}: choose from {', '.join(known)}")
    return {name: typed(value, known[name], f"{where}: {name}", whole=whole) for name, value in table.items()}


def _made(kind: type, values: dict, where: str) -> object:
    """A dataclass of these values; ValueError that names the file if a field is missing or a value is impossible."""
    if missing := [each.name for each in fields(kind) if each.default is MISSING and each.name not in values]:
        raise ValueError(f"{where} lacks {', '.join(missing)}: give them, or begin the file with a scale that has "
                         'them, such as base = "small"')
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
