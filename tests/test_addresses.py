"""Addresses do not drift: what was trained before a change of the code must be found after it.

A run's address hashes its step, student, data and the bytes of its teacher's weights. Here teachers and data have fixed
names in place of hashes, so that nothing is trained, packed or downloaded; those kept come from the code at commit
52e6e32, those of `real` from the day it was added, those of Table 8 (perturbed_*) from 2026-12-01, when each of its
models got a rate of its own; those of the main student of `small` from that day too, when it got half of its bytes. The
teacher's own address does not depend on weights: it is compared with the committed result.
"""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from dbyte.distill import curriculum, teacher
from dbyte.distill.curriculum import plan_steps
from dbyte.distill.runs import Run, content_hash
from dbyte.paths import RESULTS
from dbyte.presets import SCALES, scale, whole_world
from dbyte_paper import variants

# Of each scale the addresses of the five steps of the curriculum, and of every table the content hash of all addresses.
KEPT = json.loads(Path(__file__).with_name("addresses.json").read_text(encoding="utf-8"))
SCALES_THEN = SCALES | {"smoke": scale(str(Path(__file__).with_name("smoke_before.toml")))}
# The hash of the packed rows of scale small, by the pinned packages.
SMALL_ROWS = "ce686d3d7f2bc63597c608fb210916b1fd29735343fa4f63424bde2b47f7819a"


def named(scale, **_) -> Path:
    """The folder that a scale's teacher would be in."""
    if isinstance(scale.teacher, str):
        return Path(scale.teacher)
    return Path("teacher-" + content_hash(scale.teacher.describe())[:8])


@pytest.fixture(autouse=True)
def nothing_is_read(monkeypatch):
    """Teachers and data by name; every run counts as complete."""
    def rows(scale, *_, **__):
        return SimpleNamespace(hash="data")

    def transformed_rows(scale, transform, _, *, max_bytes, **__):
        return SimpleNamespace(hash=f"data {transform} {max_bytes}")

    def plan_teacher(scale, **_):
        return (SimpleNamespace(status="complete", run=SimpleNamespace(model_folder=named(scale))),)

    tokens = SimpleNamespace(backend=None, content_hash="tokens", token_bytes=())
    config = SimpleNamespace(max_position_embeddings=1024, vocab_size=0)
    fakes = {"teacher_run": named, "plan_teacher": plan_teacher, "read_teacher": lambda folder: (config, None),
             "model_hash": lambda folder: f"model of {folder}", "training_rows": rows,
             "transformed_rows": transformed_rows,
             "TokenBytes": SimpleNamespace(from_tokenizer=lambda _: tokens)}
    monkeypatch.setattr(curriculum, "teacher_folder", Path)
    for module in (curriculum, variants):
        for name in fakes.keys() & vars(module).keys():
            monkeypatch.setattr(module, name, fakes[name])
    for name in ("training_rows", "TokenBytes"):
        monkeypatch.setattr(teacher, name, fakes[name])
    monkeypatch.setattr(teacher, "_tokenizer", lambda *_, **__: None)
    for module in (teacher, variants):
        monkeypatch.setattr(module, "model_hash", lambda folder: f"model of {folder.parent.name or folder}")
    monkeypatch.setattr(Run, "is_complete", lambda self: True)
    monkeypatch.setattr(Run, "status", lambda self: "complete")


def steps_of(scale, **options) -> list[str]:
    return [one.address for one in plan_steps(scale, curriculum.curriculum(scale, **options), seed=0)]


def rows_of(scale, table, *, batch_rows=None) -> list[str]:
    return [run.hash[:16] for variant in table
            for run in variants.run_variant(scale, variant, seed=1, teacher_seed=0, batch_rows=batch_rows)]


def teachers_of(scale) -> list[str]:
    several = (scale, whole_world(scale), replace(scale, teacher=scale.teachers.larger),
               replace(scale, teacher=scale.teachers.other))
    return [teacher.plan_teacher(one, seed=0)[-1].address for one in several]


def addresses(scale, table: str) -> list[str]:
    """The addresses of all runs of one table, by the code of today."""
    if table == "main":
        return steps_of(scale)
    if table == "mbp":
        return steps_of(scale, decoding="mbp")
    if table == "whole_world":
        return steps_of(whole_world(scale))
    if table == "teacher":
        return teachers_of(scale)
    if table == "perturbed_teacher":
        return [variants.tuned_teacher(scale, variants.perturbed_step(scale, 0), seed=0).hash[:16]]
    if table in ("boundary_learning", "perturbed_students"):
        return rows_of(scale, getattr(variants, table)(scale))
    if table == "watched":
        rows = variants.with_snapshots(variants.alignments(scale))
    else:
        rows = getattr(variants, table)(scale)
    return rows_of(scale, rows, batch_rows=scale.ablation.batch_rows)


@pytest.mark.parametrize("name, table", [(name, table) for name in KEPT for table in KEPT[name]])
def test_every_table_keeps_its_addresses(name, table):  # scale real joins when its results are committed
    found = addresses(SCALES_THEN[name], table)
    assert (found if table == "main" else content_hash(found)[:16]) == KEPT[name][table], found


def test_the_committed_teacher_of_scale_small_is_found(monkeypatch):
    monkeypatch.setattr(teacher, "training_rows", lambda *_, **__: SimpleNamespace(hash=SMALL_ROWS))
    committed = json.loads((RESULTS / "small" / "teacher.json").read_text(encoding="utf-8"))
    (planned,) = teacher.plan_teacher(SCALES["small"], seed=0)
    assert planned.address == committed["config_hash"]
