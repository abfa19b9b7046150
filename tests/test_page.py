"""The one-page report: only what results and figures hold, the same bytes for the same results, one whole file."""

import json
import re
import shutil
from functools import partial
from html.parser import HTMLParser

import pandas as pd
import pytest
from test_report import MAIN, write

from dbyte import paths, presets
from dbyte.evaluate.harness import ColumnResult
from dbyte.paths import ROOT
from dbyte_paper import claims, figures, page, sentences
from dbyte_paper.figures import save, write_png
from dbyte_paper.real_teacher import BITS, goals, kept_rows
from dbyte_paper.results import read_if_any, read_results
from dbyte_paper.tables import markdown


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    write(folder / "results", scale="small")
    figure = figures.claims_figure(claims.judged(scale=presets.scale("small"), folder=folder / "results"))
    frames = [read_results("main", scale="small", folder=folder / "results")]
    save(figure, "claims", frames=frames, folder=folder / "figures")
    write_png(figure, folder / "figures" / "small" / "without_source.png")
    return folder


@pytest.fixture
def folders(drawn, tmp_path):
    """Results and figures that a test may change: drawn once, which takes seconds, and copied."""
    shutil.copytree(drawn, tmp_path, dirs_exist_ok=True)
    return dict(results=tmp_path / "results", figures=tmp_path / "figures")


class Balanced(HTMLParser):
    """Fails where a tag is closed that is not the last one open."""

    VOID = {"meta", "img"}

    def __init__(self):
        super().__init__()
        self.open, self.images, self.links = [], [], []

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        given = dict(attributes)
        self.images += [given["src"]] if tag == "img" else []
        self.links += [value for name, value in attributes if name in ("href", "src")]

    def handle_endtag(self, tag):
        assert tag in self.VOID or self.open.pop() == tag


def test_the_committed_scale_reports_in_results_and_writes_the_same_again(folders):
    assert not page.report(presets.scale("small"), write=False, **folders)
    assert page.report(presets.scale("small"), write=True, **folders)
    path = folders["results"] / "REPORT.md"
    assert path == page.report_path("small", results=folders["results"])
    first = [file.read_bytes() for file in (path, path.with_suffix(".html"))]
    assert page.report(presets.scale("small"), write=False, **folders)
    assert [file.read_bytes() for file in (path, path.with_suffix(".html"))] == first
    path.write_text(path.read_text().replace("teacher", "pupil"))
    assert not page.report(presets.scale("small"), write=False, **folders), "an edit by hand is seen"


def test_the_committed_report_opens_with_ten_sentences_then_table_1_then_the_primary_claims():
    text = page.report_path(paths.COMMITTED_SCALE).read_text(encoding="utf-8")
    said = text.split("## In short\n\n")[1].split("\n\n")[0].splitlines()
    assert len(said) == 10 and all(re.fullmatch(r"- \S.*\.", line) for line in said)
    assert sum("above chance" in line for line in said) >= 4, "beside every plain share of what is kept"
    places = [text.index(part) for part in (
        "## In short", "## What is kept", "| above chance % |", "/primary_claims.png)", "## Which recipe",
        "## The paper's claims", "## The paper's arithmetic", "## Cost")]
    assert places == sorted(places)


def test_markdown_links_what_is_there_and_shows_the_measured_rows(folders):
    page.report(presets.scale("small"), write=True, **folders)
    path = folders["results"] / "REPORT.md"
    text = path.read_text()
    links = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", text)
    assert links == ["../figures/small/claims.png"] and (path.parent / links[0]).is_file()
    assert "| stage2 | 76.0 ± 1.5 | 86.0 ± 1.5 | 4.0 ± 1.5 | 95.3 ± 1.7 |" in text
    assert "53.66 | 56.866" in text, "the slip of Table 7"
    assert str(paths.ROOT) not in text and "nan" not in re.sub(r"[a-z]nan|nan[a-z]", "", text)


def test_a_figure_that_is_older_than_its_results_says_so(folders):
    path = folders["results"] / "REPORT.md"
    page.report(presets.scale("small"), write=True, **folders)
    assert "Drawn from `main.csv`." in path.read_text() and "have changed since" not in path.read_text()
    write(folders["results"], [row | {"n": 300} for row in MAIN], scale="small")
    page.report(presets.scale("small"), write=True, **folders)
    assert "Drawn from `main.csv`. These have changed since" in path.read_text()


def test_a_figure_without_results_names_its_scale(tmp_path):
    figure = figures.claims_figure(claims.judged(scale=presets.scale("smoke"), folder=tmp_path))
    assert save(figure, "claims", frames=[], scale="smoke", folder=tmp_path).parent.name == "smoke"
    with pytest.raises(ValueError, match="must be drawn from"):
        save(figure, "claims", frames=[], folder=tmp_path)


def test_html_is_one_balanced_file_with_the_figures_inside(folders):
    page.report(presets.scale("small"), write=True, **folders)
    text = (folders["results"] / "REPORT.html").read_text()
    parser = Balanced()
    parser.feed(text)
    assert parser.open == [] and len(parser.images) == 1
    assert all(link.startswith("data:image/png;base64,") for link in parser.links), "nothing is fetched"
    assert "<td>76.0 ± 1.5</td>" in text and "&lt; 0" in text


def test_a_scale_where_nothing_ran_has_a_report_that_says_so(tmp_path):
    folders = dict(results=tmp_path / "results", figures=tmp_path / "figures")
    assert page.report(presets.scale("smoke"), write=True, **folders)
    text = (tmp_path / "results" / "smoke" / "REPORT.md").read_text()
    assert "Not measured yet" in text and "None is judged by this scale alone" in text and "![" not in text
    assert not (tmp_path / "results" / "REPORT.md").exists(), "smoke must not touch the committed report"


def test_cells_are_escaped_and_numbers_stand_to_the_right(tmp_path):
    frame = pd.DataFrame({"what|": ["a < b & c | d"], "value": [1.25], "n": [3], "none": [float("nan")]})
    text = page.as_html("t", f"{markdown(frame, digits=1)}\n\na < b, `x & y`\n", folder=tmp_path)
    right = '<td style="text-align:right">'
    assert "<th>what|</th>" in text and "<td>a &lt; b &amp; c | d</td>" in text
    assert f"{right}1.2</td>" in text and f"{right}3</td>" in text and f"{right}</td>" in text
    assert "<p>a &lt; b, <code>x &amp; y</code></p>" in text


def test_the_readme_takes_a_generated_part_between_its_markers():
    text = f"before\n{page.BEGIN}\nold\n{page.END}\nafter"
    assert page.with_numbers(text, "new") == f"before\n{page.BEGIN}\n\nnew\n\n{page.END}\nafter"
    with pytest.raises(ValueError, match="once each"):
        page.with_numbers("no markers", "new")


def test_the_page_of_a_pretrained_teacher_begins_with_its_table(tmp_path):
    right = (1,) * 60 + (0,) * 40
    found = {model: {"LMB": ColumnResult("LMB", "acc", 60.0, 0.05, 100, 0.0, right, ""),
                     "WINO": ColumnResult("WINO", "acc", 0.5, 0.05, 100, 0.5, right, "")}
             for model in ("Stage 2", "teacher")}
    write(tmp_path, kept_rows(found), name="real_columns", scale="real")
    columns = read_results("real_columns", scale="real", folder=tmp_path)
    said, table = page.one_teacher(columns, None, None)
    assert "seeds 0, 1" in said and "at most 100 items a column" in said
    head, _, *rows = table.splitlines()
    assert head == "| model | LMB | WINO (near chance) | average | kept above chance, % |"
    assert [row.split(" | ")[0] for row in rows] == ["| teacher", "| Stage 2"]
    assert list(page.headline(partial(read_if_any, scale="real", folder=tmp_path)))[1:] == [said, table]


def test_a_teacher_that_is_near_chance_everywhere_keeps_nothing_and_has_a_page(tmp_path):
    found = {model: {"WINO": ColumnResult("WINO", "acc", 0.5, 0.05, 100, 0.5, (1, 0) * 50, "")}
             for model in ("Stage 2", "teacher")}
    write(tmp_path, kept_rows(found), name="real_columns", scale="real")
    said, table = page.one_teacher(read_results("real_columns", scale="real", folder=tmp_path), None, None)
    assert "at most 100 items a column" in said
    assert table.splitlines()[0] == "| model | WINO (near chance) | kept above chance, % |"
    assert table.splitlines()[2].startswith("| teacher | 50.0 ± 5.0 |")


def test_goals_are_asked_column_by_column_and_letters_are_told(tmp_path):
    def result(right: int) -> ColumnResult:
        return ColumnResult("", "acc", right / 100, 0.05, 100, 0.0, (1,) * right + (0,) * (100 - right), "")

    found = {"teacher": {"LMB": result(60), "PIQA": result(80)}, "Stage 1, router's": {"LMB": result(30),
                                                                                       "PIQA": result(80)}}
    columns = pd.DataFrame(kept_rows(found))
    text = pd.DataFrame([{"model": "Stage 2", "measure": BITS, "corpus": "c", "more": more, "more_stderr": 1.0, "n": 9}
                         for more in (9.0, 80.0)])
    asked = {(goal["claim"], goal["verdict"].split()[0]) for goal in goals(columns, text)}
    kept, bits = "kept above chance, %, {}, Stage 1, router's", "bits per byte over the teacher's, %, c, Stage 2"
    assert asked == {(kept.format("LMB"), "fails"), (kept.format("PIQA"), "holds"), (kept.format("average"), "fails"),
                     (bits, "holds"), (bits, "fails")}
    assert page.goals_met(columns, text).startswith("2 of 5 goals")
    letters = pd.DataFrame([{"model": "teacher", "task": task, "value": 25.0, "stderr": 2.0, "n": 8, "chance": 12.5}
                            for task in ("spell", "average")])
    write(tmp_path, kept_rows(found), name="real_columns", scale="real")
    *_, told = page.one_teacher(read_results("real_columns", scale="real", folder=tmp_path), None, letters)
    assert told.endswith("over 1 kinds of questions, 8 items, where guessing gives 12.5: teacher 25.0 ± 2.0.")


def test_sentences_say_what_the_results_say_and_nothing_that_was_not_measured(tmp_path):
    found = {model: {"LMB": ColumnResult("LMB", "acc", right / 100, 0.05, 100, 0.0, (1,) * right + (0,) * (100 - right),
                                         "")} for model, right in (("teacher", 60), ("Stage 2", 30))}
    write(tmp_path, kept_rows(found), name="real_columns", scale="real")
    said = list(sentences.of_one_teacher(read_results("real_columns", scale="real", folder=tmp_path), None))
    assert len(said) == 1 and "accuracy above chance its student keeps 50 % (" in said[0] and "Stage 2" in said[0]
    claimed = pd.DataFrame({"claim": ["a", "b", "c"], "verdict": ["shown", "opposite", "not measured"],
                            "primary": [True, True, False]})
    assert list(sentences.of_claims(claimed)) == [
        "Of 3 claims of the papers, 1 shown, 0 equal, 0 not shown, 1 opposite, 0 uninformative, 1 not measured.",
        "Of the 2 primary ones, shown: a. opposite to the paper: b."]


def test_every_claim_is_on_the_figure_on_its_own_side():
    rows = [dict(id=name, claim=f"{name} is so", where="6.1; Table 3", notebook="04_x", verdict=verdict, value=value,
                 low=value - 1, high=value + 1, threshold=2.0, direction=direction)
            for name, verdict, value, direction in (("a", "shown", 5.0, "above"), ("b", "shown", -3.0, "below"),
                                                    ("c", "opposite", 7.0, "below"),
                                                    ("d", "not measured", float("nan"), ""))]
    (axes,) = figures.claims_figure(pd.DataFrame(rows)).axes
    assert [label.get_text().split()[0] for label in axes.get_yticklabels()] == list("dcba")
    points = {int(line.get_ydata()[0]): float(line.get_xdata()[0]) for line in axes.lines if len(line.get_xdata()) == 1}
    assert points == {3: 3.0, 2: 5.0, 1: -5.0}, "right of zero is what is claimed, whatever the direction"
    assert [text.get_text() for text in axes.texts] == ["not measured (notebook 04)"]
    assert axes.get_yticklabels()[0].get_text().replace("\N{NO-BREAK SPACE}", " ") == "d is so [6.1; Table 3]"
    assert axes.get_xscale() == "symlog" and "linear to 10 points, logarithmic beyond: shaded" in axes.get_xlabel()
    assert [(box.get_x(), box.get_x() + box.get_width()) for box in axes.patches] == [(-10, -110), (10, 110)]


def test_every_committed_figure_has_a_caption():
    drawn = {path.stem for path in (paths.FIGURES / paths.COMMITTED_SCALE).glob("*.json")}
    assert drawn and drawn <= set(page.CAPTIONS)


def test_the_report_says_which_commits_its_results_are_of(folders):
    name = {"a" * 40: "`main`", "b" * 40 + "+changes": "x"}
    for commit, file in name.items():
        sidecar = folders["results"] / "small" / f"{file.strip('`')}.json"
        sidecar.write_text(json.dumps({"commit": commit}))
        said = list(page.commits(folders["results"] / "small"))
        assert said[0] == ("The results are of one commit:" if file != "x" else
                           "The results are of 2 commits, which one run of all notebooks would make one:")
    assert said[1].split("\n")[2:] == ["| aaaaaaaaaaaa | main |", "| bbbbbbbbbbbb+changes | x |"]
    assert not list(page.commits(folders["results"] / "none"))


@pytest.mark.parametrize("scale", ["small", "real", "gpu"])
def test_no_report_names_a_folder_of_the_machine_that_wrote_it(scale):
    """Or the same results would give another report in another clone."""
    text = page.report_path(scale).read_text(encoding="utf-8")
    assert str(ROOT) not in text and "expected /" not in text
