"""What a run says: a bar where someone watches, a few lines elsewhere, and the same numbers in metrics.jsonl."""

import io
import re
import sys
import time
from itertools import pairwise
from types import SimpleNamespace

import nbformat
import papermill
import pytest
from conftest import Ask

from dbyte.distill import progress
from dbyte.distill.progress import LINE_SECONDS, ProgressLog, told, watched_stream
from dbyte.distill.runs import Run
from dbyte.evaluate.lm import StudentLM
from dbyte.evaluate.score import Request, Scorer
from dbyte.evaluate.score_own_boundaries import OwnBoundariesScorer, walk

UPDATES = 400
CELL = """
import pathlib, tempfile
from dbyte.distill import progress
from dbyte.distill.runs import Run
run = Run({}, root=pathlib.Path(tempfile.mkdtemp()))
run.folder.mkdir()
log = progress.ProgressLog(run, "1.1 align", 400, 0)
for update in range(400):
    log.write(update, loss=2.0, norm=1.0, rates=[0.001, 0.03], seconds=0.5 * (update + 1), train_bytes=1000 * update)
log.close()
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(tmp_path):
    made = Run({}, root=tmp_path)
    made.folder.mkdir()
    return made


def say(run, updates=UPDATES, seconds=0.5):
    log = ProgressLog(run, "1.1 align", updates, 0)
    for update in range(updates):
        log.write(update, loss=2.0, norm=1.0, rates=[0.001, 0.03], seconds=seconds * (update + 1),
                  train_bytes=1000 * (update + 1))
    log.close()


def test_a_log_gets_a_line_now_and_then_with_all_that_is_asked_for(run, capsys):
    say(run)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert 5 <= len(lines) <= 20 and "\r" not in out + err and err == ""
    assert lines[4] == "  1.1 align: 117/400, loss 2, rates 1.0e-03, 3.0e-02, 2,000 bytes/s, 142 s left"
    assert len(run.metrics()) == 200 + 1 and run.metrics()[-1]["update"] == UPDATES - 1


@pytest.mark.parametrize("updates, seconds, lines", [(18, 13.0, 18), (5, 40.0, 5), (20_000, 0.1, 135), (9, 0.1, 2)])
def test_a_log_is_never_silent_for_long_however_long_an_update_takes(updates, seconds, lines, run, capsys):
    say(run, updates, seconds)
    told = [int(found) for found in re.findall(r"(\d+)/", capsys.readouterr().out.replace("bytes/", ""))]
    assert told[0] == 1 and told[-1] == updates and len(told) == lines
    assert max((b - a) * seconds for a, b in pairwise(told)) <= max(LINE_SECONDS, seconds)


def test_speed_and_time_left_are_those_since_the_run_was_resumed(run, capsys):
    log = ProgressLog(run, "1.1 align", 10, 0)
    log.write(4, loss=2.0, norm=1.0, rates=[0.1], seconds=5_000.0, train_bytes=5_000)  # a slow machine
    log.close()
    log = ProgressLog(run, "1.1 align", 10, 5)
    log.write(5, loss=2.0, norm=1.0, rates=[0.1], seconds=5_000.0 + 2, train_bytes=6_000)
    log.close()
    assert capsys.readouterr().out.splitlines()[-1].endswith("6/10, loss 2, rates 1.0e-01, 500 bytes/s, 8 s left")


def test_a_long_job_is_told_and_a_short_one_is_not(monkeypatch, capsys):
    assert list(told(range(5), "scored batches")) == list(range(5)) and capsys.readouterr().out == ""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.1)
    for _ in told(range(8), "scored batches"):
        time.sleep(0.06)
    lines = capsys.readouterr().out.splitlines()
    assert 3 <= len(lines) <= 7 and re.fullmatch(r"  scored batches: [1-3]/8, 0 s left", lines[0])


def test_a_job_of_known_size_says_how_many_bytes_a_second(monkeypatch, capsys):
    ticks = iter([0, 0, 10, 20, 30])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    assert list(told(range(4), "scored batches", lambda part: 1000 * (part + 1))) == list(range(4))
    assert capsys.readouterr().out.splitlines() == [
        "  scored batches: 1/4, 100 bytes/s, 30 s left", "  scored batches: 2/4, 150 bytes/s, 20 s left",
        "  scored batches: 3/4, 200 bytes/s, 10 s left"]


def test_scores_are_told(student, token_bytes, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    Scorer(student, stage=2, batch_bytes=4).score([Request(text, 0) for text in (b"one", b"two", b"three")])
    assert re.search(r"scored batches: 2/3, [\d,]*\d bytes/s, \d+ s left", capsys.readouterr().out)
    lm = StudentLM(student, token_bytes, stage=2, rows=1, beam=1, batch_bytes=8)
    lm.loglikelihood([Ask("one", " two"), Ask("three", " four")])
    assert re.search(r"batches of the beam: 1/2, [\d,]*\d bytes/s", capsys.readouterr().out)
    lm.generate_until([Ask("one", {"until": [], "max_gen_bytes": 3}), Ask("three", {"until": [], "max_gen_bytes": 3})])
    assert re.search(r"written batches: 1/2, [\d,]*\d bytes/s", capsys.readouterr().out)
    own = OwnBoundariesScorer(student, stage=2)
    walk(student, [Request(text, 1) for text in (b"one", b"two")], rows=1, engine=own.engine)
    assert re.search(r"batches read byte by byte: 1/2, [\d,]*\d bytes/s", capsys.readouterr().out)


def test_a_terminal_gets_a_bar_and_no_lines(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert watched_stream() is sys.stderr
    say(run)
    frames = sys.stderr.getvalue().split("\r")
    assert capsys.readouterr().out == ""
    assert re.search(r"1\.1 align: 100%.*400/400.*loss 2, rates 1\.0e-03, 3\.0e-02, 2,000 bytes/s", frames[-1])


@pytest.mark.exhaustive
def test_a_notebook_that_papermill_runs_keeps_lines_only(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    done = papermill.execute_notebook(notebook, tmp_path / "out.ipynb", kernel_name="python3", progress_bar=False)
    text = "".join(output.text for output in done.cells[0].outputs)
    assert 5 <= text.count("\n") <= 20 and text.count("bytes/s") == text.count("\n") and "\r" not in text
    assert "it/s" not in text and "%|" not in text


@pytest.mark.parametrize("allow_stdin", [True, False])
def test_a_notebook_gets_a_bar_if_its_front_end_could_ask_its_reader(allow_stdin, monkeypatch):
    """JupyterLab allows the cells that it sends to ask for input; papermill and nbconvert do not."""
    kernel = SimpleNamespace(get_parent=lambda channel: {"content": {"allow_stdin": allow_stdin}})
    shell = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=kernel))
    monkeypatch.setitem(sys.modules, "IPython", shell)
    assert watched_stream() is (sys.stdout if allow_stdin else None)
