"""What CONTRIBUTING.md shows runs as it is printed and does what its words say; versions and licence agree."""

import re
import tomllib

import pytest
import yaml

from dbyte.model.student import ByteStudent
from dbyte.paths import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FIRST, *SECTIONS = re.split(r"^## ", PAGE, flags=re.MULTILINE)
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
SHOWN = {section.split("\n")[0]: CODE.findall(section) for section in SECTIONS}


@pytest.fixture(scope="module")
def shown():
    """Run the section with this heading, after the beginning that all share; returns what its names then hold."""
    def run(heading):
        (beginning,), (program,) = CODE.findall(FIRST), SHOWN[heading]
        names = {}
        exec(compile(beginning + program, f"CONTRIBUTING.md, {heading}", "exec"), names)
        return names

    return run


def test_each_addition_is_shown_once():
    assert {heading: len(programs) for heading, programs in SHOWN.items()} == dict.fromkeys(
        ("A row of an ablation", "A step", "A teacher", "A task"), 1)


def test_a_row_trains_its_steps_at_the_rate_that_it_changes(shown):
    runs = shown("A row of an ablation")["runs"]
    assert [run.config["step"]["name"] for run in runs] == ["1.1 align", "1.2 distill"]
    assert 1e-3 in [group["rate"] for group in runs[1].config["step"]["groups"] if group["parts"] == ["core"]]
    assert ByteStudent.from_pretrained(runs[-1].model_folder).config.stage == 1


def test_a_step_continues_stage_1_and_moves_what_it_names(shown):
    runs = shown("A step")["runs"]
    assert [run.config["step"]["objective"] for run in runs][-1] == "js_with_boundary"
    before, after = (ByteStudent.from_pretrained(run.model_folder).state_dict() for run in runs[-2:])
    moved = {name.split(".")[0] for name, weight in before.items() if not weight.equal(after[name])}
    assert moved == {"byte_embedding", "encoder", "encoder_projection", "router"}


def test_a_teacher_from_a_folder_is_the_core_of_a_student(shown):
    names = shown("A teacher")
    assert names["brought"].agreement == 1.0 and names["brought"].divergence < 1e-6
    student = ByteStudent.from_pretrained(names["runs"][0].model_folder)
    taught = names["brought"].model.state_dict()
    assert student.core.layers[0].mlp.up_proj.weight.equal(taught["model.layers.0.mlp.up_proj.weight"])


def test_a_task_is_asked_of_a_student(shown):
    names = shown("A task")
    result = names["result"]
    assert result.n == 4 and len(set(row["question"] for row in names["column"].items(90))) == 90
    assert result.accuracy == pytest.approx(sum(result.correct) / 4)


def test_versions_and_licence_are_those_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    newest = re.search(r"^## (\S+?),? ", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert citation["version"] == newest == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys(), "what the format requires"
    assert all({"type", "title", "authors"} <= reference.keys() for reference in citation["references"])
