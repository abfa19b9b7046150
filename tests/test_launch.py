"""What travels to a machine without network and back: wheels, and a student without its teacher's weights."""

import dataclasses
import importlib.util

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_curriculum import TOY

from dbyte.distill.curriculum import curriculum, run_steps
from dbyte.distill.teacher import teacher_run
from dbyte.model.student import ByteStudent
from dbyte.paths import ROOT


def script(name):
    """A module of launch/."""
    specification = importlib.util.spec_from_file_location(name, ROOT / "launch" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


delta, wheels = script("delta"), script("wheels")


@pytest.fixture(scope="module")
def scale():
    """The toy scale around a teacher that is a folder, with fewer bytes."""
    return dataclasses.replace(TOY, teacher=str(teacher_run(TOY, seed=0)), stage1=TOY.stage1 | dict(align_bytes=4_000))


def test_a_student_is_put_together_from_what_came_back(scale, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(delta, "MOST_BYTES", 8_000)
    folder = run_steps(scale, curriculum(scale)[:1], seed=0)[0].model_folder
    delta.take_apart(scale, tmp_path / "back")
    files = sorted((tmp_path / "back").glob("*.safetensors"))
    assert len(files) > 2 and "NOT in these files" not in capsys.readouterr().out
    assert not any(name.startswith(delta.TEACHERS) for path in files for name in load_file(path))
    assert (tmp_path / "back" / "curves.json").read_text().startswith('{"1.1 align": [{')
    delta.join(scale, tmp_path / "back", tmp_path / "whole")
    trained, found = (ByteStudent.from_pretrained(each).state_dict() for each in (folder, tmp_path / "whole"))
    for name, weight in trained.items():
        torch.testing.assert_close(found[name], weight, rtol=2**-8, atol=0, msg=name)
    files[0].unlink()
    with pytest.raises(ValueError, match="must hold the files of one step"):
        delta.join(scale, tmp_path / "back", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_core_that_has_trained_is_told(scale, tmp_path, capsys):
    model = run_steps(scale, curriculum(scale)[:1], seed=0)[0].model_folder / "model.safetensors"
    weights = load_file(model)
    before = model.read_bytes()
    try:
        save_file(weights | {"core.norm.weight": 2 * weights["core.norm.weight"]}, model)
        with pytest.MonkeyPatch.context() as patch:  # the run counts as complete, although its checksum is another
            patch.setattr("dbyte.distill.runs.verify", lambda folder: None)
            delta.take_apart(scale, tmp_path)
    finally:
        model.write_bytes(before)
    assert "1 tensors of the core have trained and are NOT in these files" in capsys.readouterr().out


def test_what_a_machine_has_does_not_travel_and_what_it_needs_does():
    everything = wheels.needed(["datasets"], set())
    assert {"datasets", "pyarrow", "dill"} <= everything.keys()
    some = wheels.needed(["datasets"], {"pyarrow", "torch"})
    assert "pyarrow" not in some and some["dill"] == everything["dill"]
    assert "socksio" not in wheels.needed(["httpx"], set()), "extras that nobody asked for"
