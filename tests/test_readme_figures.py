"""Figures in the README and the reports, numbers and pictures, are those of the results beside them."""

import hashlib
import json
import re

import pytest

from dbyte.paths import FIGURES, ROOT
from dbyte.scale_file import BUILT_IN
from dbyte_paper import page

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ("README.md", "results/REPORT.md", "results/gpu/REPORT.md")
DRAWN_FROM_THE_SCALE = ("pipeline", "alignment")  # the steps and the tokenizer; no result is in them
SIDECARS = sorted(FIGURES.glob("*/*.json"))
COUNTS = {5: "five", 6: "six", 7: "seven", 8: "eight"}


def test_the_numbers_of_the_readme_are_those_of_the_results():
    assert page.readme(write=False), "python -m dbyte readme --write"


@pytest.mark.parametrize("change", [("| teacher | 100.0 ± 0.0", "| teacher | 99.9 ± 0.0"),
                                    ("seed 0, cpu", "seed 1, cpu")])
def test_a_number_that_no_result_has_is_found(change, tmp_path):
    (tmp_path / "README.md").write_text(README.replace(*change), encoding="utf-8")
    assert README.count(change[0]) and not page.readme(write=False, path=tmp_path / "README.md")


@pytest.mark.parametrize("path", SIDECARS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_picture_was_drawn_from_the_results_that_lie_here(path):
    assert path.with_suffix(".png").is_file()
    for name, digest in json.loads(path.read_text(encoding="utf-8"))["reads"].items():
        found = hashlib.sha256((ROOT / name).read_bytes()).hexdigest()
        assert found == digest, f"{name} changed: draw {path.stem} again"


@pytest.mark.parametrize("name", PAGES)
def test_each_picture_of_a_page_says_what_it_was_drawn_from(name):
    shown = [(ROOT / name).parent / link for link in re.findall(r"!\[[^]]*\]\(([^)]+)\)", (ROOT / name).read_text())]
    assert shown and all(picture.is_file() for picture in shown)
    assert not [picture for picture in shown if picture.stem not in DRAWN_FROM_THE_SCALE
                and not picture.with_suffix(".json").is_file()]


def test_the_readme_counts_right():
    assert f"at {COUNTS[len(BUILT_IN)]} scales" in README
    rows = re.findall(r"\(notebooks/(\d\d_\w+)\.ipynb\)", README)
    assert sorted(rows) == sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
