"""Core-hours: seconds times threads of every run and measurement that a notebook asked for, of one seed and of all."""

import json
from functools import partial

import pytest

from dbyte.distill.runs import NOTEBOOK_SCALE, noted
from dbyte_paper import core_hours, page
from dbyte_paper.results import read_if_any

NOTE = {"scale": "smoke", "asked by": "04_one"}


def run(folder, name, *, seed, seconds, threads=1, **notes):
    place = folder / (name * 16)
    place.mkdir(parents=True)
    for file, content in (("config", {"seed": seed}), ("notes", NOTE | notes),
                          ("complete", {"seconds": seconds, "threads": threads})):
        (place / f"{file}.json").write_text(json.dumps(content))
    return place


def measurement(folder, name, seconds, *, of="", **notes):
    (folder / "measured").mkdir(exist_ok=True)
    text = json.dumps({"notes": NOTE | notes | {"threads": 2, "run": of * 16}, "found": {"seconds": seconds}})
    (folder / "measured" / f"{name}.json").write_text(text)


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs"
    run(folder, "a", seed=0, seconds=1800.0, threads=2)
    run(folder, "b", seed=1, seconds=3600.0)
    run(folder, "c", seed=0, seconds=7200.0, **{"asked by": "20_two"})
    run(folder, "d", seed=0, seconds=999.0, scale="small")
    run(folder, "e", seed=0, seconds=999.0, **{"asked by": "train"})
    (run(folder, "f", seed=0, seconds=999.0) / "complete.json").unlink()
    measurement(folder, "1", 900.0, of="b")
    measurement(folder, "2", 99.0, scale="small")
    (folder / "measured" / "3.json").write_text("{")
    return folder


def test_one_seed_and_all_by_hand(tmp_path, runs):
    core_hours.count("smoke", seed=0, device="cpu", results=tmp_path, runs=runs)
    sums = read_if_any(core_hours.SECONDS, scale="smoke", folder=tmp_path)
    found = {(row.notebook, row.seed): (row.value, row.n) for row in sums.itertuples()}
    assert found == {("04_one", 0): (3600, 1), ("04_one", 1): (3600 + 2 * 900, 2), ("20_two", 0): (7200, 1)}
    assert core_hours.hours(sums) == (3.0, 4.5)
    assert core_hours.told(sums).endswith("4 runs and measurements, one seed of 2 notebooks takes 3.0 core-hours "
                                          "(goal: 3), all seeds 4.5 (goal: 10).")
    text = "\n".join(page.costs(partial(read_if_any, scale="smoke", folder=tmp_path)))
    assert core_hours.told(sums) in text and "| 04_one | 60.0 | 150.0 |" in text


def test_a_notebook_that_runs_holds_nothing_of_stays_as_it_was(tmp_path, runs):
    core_hours.count("smoke", seed=0, device="cpu", results=tmp_path, runs=runs)
    only = tmp_path / "other"
    run(only, "a", seed=0, seconds=10.0)
    core_hours.count("smoke", seed=0, device="cpu", results=tmp_path, runs=only)
    sums = read_if_any(core_hours.SECONDS, scale="smoke", folder=tmp_path)
    assert {(row.notebook, row.value) for row in sums.itertuples()} == {("04_one", 10.0), ("20_two", 7200.0)}
    core_hours.count("small", seed=0, device="cpu", results=tmp_path, runs=tmp_path / "none")
    assert read_if_any(core_hours.SECONDS, scale="small", folder=tmp_path) is None


def test_what_names_no_scale_is_counted_under_its_notebooks(monkeypatch):
    monkeypatch.setenv(NOTEBOOK_SCALE, "smoke")
    assert (noted("")["scale"], noted("small")["scale"]) == ("smoke", "small")
    monkeypatch.delenv(NOTEBOOK_SCALE)
    assert noted("")["scale"] == ""
