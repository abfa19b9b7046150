"""`python -m dbyte runs`: what is listed, shown, verified and pruned is what lies on disk."""

import fcntl
import json
import threading

import pytest

from dbyte.__main__ import main
from dbyte.distill import run_list
from dbyte.distill.runs import Run


def finished(root, name: str, parent: Run | None = None) -> Run:
    run = Run({"step": {"name": name}}, parent=parent, root=root)
    with run.locked():
        run.complete(lambda folder: (folder / "weights").write_text(name),
                     facts={"train_bytes": 2_000_000, "seconds": 60})
    return run


@pytest.fixture
def family(tmp_path):
    """A parent, its child, and a stranger."""
    parent = finished(tmp_path, "1.1 align")
    return tmp_path, parent, finished(tmp_path, "1.2 distill", parent), finished(tmp_path, "9 other")


def test_every_run_is_listed_with_state_step_and_parent(family):
    root, parent, child, _ = family
    begun = Run({"step": {"name": "1.3 boundary"}}, parent=child, root=root)
    with begun.locked():
        held = run_list.listing(run_list.entries(root))
    assert [line.split()[1] for line in held.splitlines()[1:]] == ["complete", "complete", "running", "complete"]
    lines = run_list.listing(run_list.entries(root)).splitlines()
    assert "1.1 align" in lines[1] and "2.0" in lines[1] and "1.0" in lines[1]
    assert lines[2].endswith(parent.hash[:16])
    assert lines[3].split()[1] == "begun"


def test_a_run_is_found_by_its_first_digits_and_shown_with_its_lineage(family):
    root, parent, child, _ = family
    entry = run_list.find(child.hash[:7], root)
    assert [one.name for one in run_list.lineage(entry, root)] == [parent.hash[:16], child.hash[:16]]
    assert child.hash[:16] in run_list.description(entry, root) and "train_bytes" in run_list.description(entry, root)
    with pytest.raises(ValueError, match="none does"):
        run_list.find("zz", root)
    with pytest.raises(ValueError, match="must begin with ''"):
        run_list.find("", root)


def test_verify_names_a_damaged_file_a_missing_one_and_a_foreign_folder(family):
    root, parent, child, other = family
    assert [run_list.problems(entry) for entry in run_list.entries(root)] == [[], [], []]
    (parent.model_folder / "weights").write_text("tampered")
    (child.model_folder / "weights").unlink()
    config = json.loads((other.folder / "config.json").read_text())
    (other.folder / "config.json").write_text(json.dumps(config | {"seed": 7}))
    wrong = [run_list.problems(entry) for entry in run_list.entries(root)]
    assert [len(lines) for lines in wrong] == [1, 1, 1]
    assert "weights is damaged" in wrong[0][0] and "weights is missing" in wrong[1][0]
    assert "does not describe this run" in wrong[2][0]
    assert run_list.find(other.hash[:16], root).state() == "foreign"


def test_unused_runs_are_those_that_no_result_comes_from(family, tmp_path):
    root, parent, child, other = family
    results = tmp_path / "results"
    (results / "small").mkdir(parents=True)
    (results / "small" / "stage1.json").write_text(json.dumps({"config_hash": child.hash[:16]}))
    assert [entry.name for entry in run_list.unused(root, results)] == [other.hash[:16]]
    assert [entry.name for entry in run_list.descendants(run_list.find(parent.hash[:16], root), root)] == [
        parent.hash[:16], child.hash[:16]]


def test_pruning_removes_what_it_said_and_never_a_held_run(family):
    root, parent, child, other = family
    with child.locked():
        (child.folder / "model.123.tmp").mkdir()
        (child.folder / "model.123.tmp" / "half").write_text("half")
        assert run_list.leftovers(root) == []
        with pytest.raises(BlockingIOError, match="another process"):
            run_list.remove([child.folder])
    assert run_list.leftovers(root) == [child.folder / "model.123.tmp"]
    assert run_list.remove([child.folder / "model.123.tmp", other.folder]) > 4
    assert [entry.name for entry in run_list.entries(root)] == [parent.hash[:16], child.hash[:16]]
    assert child.is_complete()


def test_looking_at_a_run_keeps_nobody_from_it(family):
    """What a look does is done here by hand and takes its time: a second look and a starting run meet it."""
    _, parent, *_ = family
    with (parent.folder / "lock").open() as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        assert not run_list.is_held(parent.folder)
        threading.Timer(0.1, lambda: fcntl.flock(look, fcntl.LOCK_UN)).start()
        with parent.locked():
            assert run_list.is_held(parent.folder)
    assert not run_list.is_held(parent.folder)


def test_the_only_whole_checkpoint_is_no_leftover(tmp_path):
    run = Run({"step": {"name": "1.1 align"}}, root=tmp_path)
    with run.locked():
        pass
    (run.folder / "checkpoint.old").mkdir()
    assert run_list.leftovers(tmp_path) == []


def test_the_command_lists_verifies_and_only_prunes_when_told(family, monkeypatch, capsys):
    root, parent, child, other = family
    monkeypatch.setattr("dbyte.paths.RUNS", root)
    assert main(["runs"]) == 0 and parent.hash[:16] in capsys.readouterr().out
    assert main(["runs", "prune", "--run", other.hash[:9]]) == 0
    assert "nothing was removed" in capsys.readouterr().out and other.folder.exists()
    assert main(["runs", "prune", "--run", other.hash[:9], "--yes"]) == 0 and not other.folder.exists()
    assert main(["runs", "verify"]) == 0
    (parent.model_folder / "weights").write_text("tampered")
    capsys.readouterr()
    assert main(["runs", "verify"]) == 1 and "is damaged" in capsys.readouterr().out
    both = ["--run", parent.hash[:9], "--run", child.hash[:9]]
    assert main(["runs", "prune", *both, "--yes"]) == 0 and not run_list.entries(root), "each goes once"


def test_a_touched_list_of_sums_is_named_even_where_it_says_the_same(family):
    _, parent, *_ = family
    sums = parent.model_folder / "sums.json"
    sums.write_text(sums.read_text().replace("\n", " "))
    assert run_list.problems(run_list.Entry(parent.folder)) == [f"{sums} is damaged"]
