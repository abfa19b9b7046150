"""The workflows for GitHub: what they run exists, they leave out nothing of .ci/run, and a night has one notebook."""

import os
import re
import subprocess

import pytest
import yaml

from dbyte.paths import ROOT

FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in FILES}
JOBS = [pytest.param(job, id=f"{name}-{title}") for name, flow in WORKFLOWS.items()
        for title, job in flow["jobs"].items()]
CHECKS = {"readme", "report", "notebooks"}  # commands of dbyte/commands/checks.py
NUMBERS = sorted(path.name[:2] for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.py"))


def commands(text):
    """The make targets and the commands of dbyte that a script runs."""
    return {*re.findall(r"\bmake ([a-z-]+)", text), *re.findall(r"(?:-m dbyte|bin/dbyte) ([a-z]+)", text)}


def programs(job):
    return "\n".join(step.get("run", "") for step in job["steps"])


@pytest.mark.parametrize("job", JOBS)
def test_a_job_runs_what_exists_and_ends(job):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    known = targets | {path.stem for path in (ROOT / "dbyte" / "commands").glob("*.py")} | CHECKS
    assert commands(programs(job)) <= known
    files = re.findall(r"(?<![\w/])((?:docs|tests|dbyte)/[\w./]+\.\w+)", yaml.safe_dump(job))
    assert not [file for file in files if not (ROOT / file).is_file()]
    assert all(re.fullmatch(r"[\w./-]+@v\d+", step["uses"]) for step in job["steps"] if "uses" in step)
    assert "timeout-minutes" in job or not programs(job)
    for step in job["steps"]:
        if step.get("uses", "").startswith("actions/setup-python"):
            assert step["with"]["cache"] == "pip", "wheels are cached"
            assert all((ROOT / file).is_file() for file in step["with"]["cache-dependency-path"].split("\n"))


def test_the_workflow_runs_what_ci_runs():
    ours = commands((ROOT / ".ci" / "run").read_text()) - {"or", "reproduce", "test-slow"}  # 20 minutes of one machine
    theirs = set().union(*(commands(programs(job)) for job in WORKFLOWS["ci"]["jobs"].values()))
    assert ours <= theirs and "reproduce" in theirs
    for page in ("reading", "notebooks"):
        assert f"python docs/{page}.py" in programs(WORKFLOWS["ci"]["jobs"]["tests"])


def chosen(tmp_path, **environment):
    (script,) = (step["run"] for step in WORKFLOWS["nightly"]["jobs"]["small"]["steps"] if step.get("id") == "tonight")
    out = tmp_path / "out"
    out.write_text("")
    given = os.environ | {"ONLY": "", "GITHUB_OUTPUT": str(out)} | environment
    done = subprocess.run(["bash", "-e", "-c", script], cwd=ROOT, env=given, capture_output=True, text=True,
                          timeout=600)
    return done, out.read_text().strip().removeprefix("only=")


def test_each_night_has_one_notebook_and_all_have_their_turn(tmp_path):
    found = [chosen(tmp_path, NIGHT=str(20_700 + night))[1] for night in range(len(NUMBERS))]
    assert sorted(found) == NUMBERS


def test_a_night_may_be_given_another_notebook_but_no_command(tmp_path):
    assert chosen(tmp_path, ONLY="05")[1] == "05"
    done, written = chosen(tmp_path, ONLY="05; rm -rf runs")
    assert done.returncode == 1 and not written and "notebook's number" in done.stderr
