"""Addresses do not drift: what was trained before a change of the code must be found after it.

A run's address hashes its step, student, data and the bytes of its teacher's weights. Here teachers and data have fixed
names in place of hashes, so that nothing is trained, packed or downloaded; the literals come from the code at commit
52e6e32, those of `real` from the day it was added. The teacher's own address does not depend on weights: it is compared
with the committed result.
"""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from dbyte.distill import curriculum, teacher, variants
from dbyte.distill.curriculum import plan_steps
from dbyte.distill.runs import Run, content_hash
from dbyte.paths import RESULTS
from dbyte.presets import SCALES, whole_world

MAIN = {  # the five steps of the curriculum
    "smoke": ["779799218780127e", "5fbb05108dbed3e4", "a722c9ced00c8104", "8faf227417691fdf", "52174f8c0f8341ba"],
    "small": ["1b92e4409b902c9b", "79f76f8c0c7abc80", "fecb46bbae57bec1", "f5668fc883c5dcac", "3860a0fc8402aacb"],
    "gpu": ["70e0cede2c4221d9", "de96e36a86757197", "5fe08a3dedcedd98", "5802311f5467cb61", "7ef19c763cd8af62"],
    "hub": ["bf911dd2b4c4e006", "186efec4cf5edd32", "b98cf16b982d0d24", "c3dd6628b6a8982c", "cbc547df9310880d"],
    "paper": ["57227f0b1f8832bf", "d865646ad8914d49", "9c3dbd3bbe1fd906", "cc5f8c1ada313cd0", "5daa299835241ea7"],
}
TABLES = {  # the content hash of all addresses of a table, in order
    "smoke": {
        "mbp": "471e2cf235e698a7", "whole_world": "c54097fd45349ac0",
        "encoders": "53c937790d6579e0", "alignments": "fe4bf3a1000e967e",
        "orders": "987a6454d121d559", "routers": "d6b95297da432c32",
        "teachers": "3b9fa468d897c6d8", "byte_sft": "f997d1ccd32eb92d",
        "boundary_learning": "5673b9e561934323", "perturbed_students": "afdfe151b1efcb17",
        "watched": "0548480d75b9997b", "perturbed_teacher": "1f27de4dc9337dcf",
        "teacher": "6c150cd0fc3b0e39",
    },
    "small": {
        "mbp": "c40441dec2e92966", "whole_world": "0c3a89c47d3c46fa",
        "encoders": "835715e3675c390c", "alignments": "18805d481500768d",
        "orders": "3cbe5abe08e25a53", "routers": "01e991c9efa481f5",
        "teachers": "ef974e220f02c21a", "byte_sft": "5ea1261ec32f1f56",
        "boundary_learning": "ca0393a9ad2999cb", "perturbed_students": "169820813b64a569",
        "watched": "8c3e48056a000c28", "perturbed_teacher": "b0e878ff49617cc0",
        "teacher": "dd05c5fa13be4563",
    },
    "gpu": {
        "mbp": "13d9faa51a54e206", "whole_world": "06ae4602a8b79c34",
        "encoders": "8589683f5aa0c2a9", "alignments": "ae34c6dae7e976e5",
        "orders": "9126c93fc402c833", "routers": "f88c6aeac525d269",
        "teachers": "3b18ace2ea5f2c4c", "byte_sft": "76f0a21a8b067258",
        "boundary_learning": "547dac5c2397cd11", "perturbed_students": "5f77f415f0a81f6b",
        "watched": "0772ffbd2b247d0e", "perturbed_teacher": "512f66cc3282e274",
        "teacher": "f67c3234680a68ba",
    },
    "hub": {
        "mbp": "6b5e807b62f33ca6",
    },
    "paper": {
        "mbp": "eaccd670228ef621",
    },
}
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
    for name in ("training_rows", "transformed_rows", "TokenBytes", "teacher_run", "read_teacher"):
        monkeypatch.setattr(teacher, name, fakes[name])
    monkeypatch.setattr(teacher, "_tokenizer", lambda *_, **__: None)
    monkeypatch.setattr(teacher, "model_hash", lambda folder: f"model of {folder.parent.name or folder}")
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
    if table == "mbp":
        return steps_of(scale, decoding="mbp")
    if table == "whole_world":
        return steps_of(whole_world(scale))
    if table == "teacher":
        return teachers_of(scale)
    if table == "perturbed_teacher":
        return [variants.perturbed_teacher(scale, seed=0).hash[:16]]
    if table in ("boundary_learning", "perturbed_students"):
        return rows_of(scale, getattr(variants, table)(scale))
    if table == "watched":
        rows = variants.with_snapshots(variants.alignments(scale))
    else:
        rows = getattr(variants, table)(scale)
    return rows_of(scale, rows, batch_rows=scale.ablation.batch_rows)


@pytest.mark.parametrize("name", MAIN)  # scale real joins when its results are committed
def test_the_main_recipe_keeps_its_addresses(name):
    assert steps_of(SCALES[name]) == MAIN[name]


@pytest.mark.parametrize("name, table", [(name, table) for name in TABLES for table in TABLES[name]])
def test_every_table_keeps_its_addresses(name, table):
    found = addresses(SCALES[name], table)
    assert content_hash(found)[:16] == TABLES[name][table], found


def test_the_committed_teacher_of_scale_small_is_found(monkeypatch):
    monkeypatch.setattr(teacher, "training_rows", lambda *_, **__: SimpleNamespace(hash=SMALL_ROWS))
    committed = json.loads((RESULTS / "small" / "teacher.json").read_text(encoding="utf-8"))
    (planned,) = teacher.plan_teacher(SCALES["small"], seed=0)
    assert planned.address == committed["config_hash"]
