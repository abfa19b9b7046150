"""The reading path: its files exist, it is short, and it leads to nothing above it."""

import importlib.util

import pytest
from test_house import PAPER, SOURCES, TASKS, imports, room

from dbyte.paths import ROOT

SPEC = importlib.util.spec_from_file_location("reading", ROOT / "docs" / "reading.py")
reading = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(reading)
DATA = reading.load()
PATH = reading.files(DATA["sitting"])
READING_PATH = 6_000  # lines that a reader meets
LIBRARY = 17_000  # lines of the library
RECIPES = 900  # and of what is there for the recipes that Tables 1 and 11 compare with


def imported(name: str) -> set[str]:
    """The files of dbyte that a file imports at its top, under TYPE_CHECKING or inside a function."""
    found = imports(name.removesuffix(".py").replace("/", ".")) if name.endswith(".py") else ()
    return {SOURCES[module].relative_to(reading.LIBRARY).as_posix()
            for module in found if room(module) not in (TASKS, PAPER)}


def test_every_file_of_the_path_exists_and_is_listed_once():
    assert len(set(PATH)) == len(PATH)
    missing = [name for name in [*PATH, *DATA["skip"]] if not (reading.LIBRARY / name).exists()]
    assert not missing


def test_an_entry_says_what_it_adds_and_nothing_that_the_page_would_not_show():
    for sitting in DATA["sitting"]:
        assert set(sitting) == {"title", "about", "file"}
        for file in sitting["file"]:
            assert {"path", "adds"} <= set(file) <= {"path", "adds", "source"}


def test_the_path_and_the_library_are_short():
    assert reading.count_lines(PATH) <= READING_PATH
    assert reading.count_lines(reading.library()) <= LIBRARY + RECIPES


@pytest.mark.parametrize("name", PATH)
def test_a_file_of_the_path_imports_the_path_or_what_may_be_skipped(name):
    skip = tuple(DATA["skip"])
    outside = [other for other in imported(name) if other not in PATH and not other.startswith(skip)]
    assert not outside


def test_nothing_is_both_on_the_path_and_skipped_and_nothing_is_skipped_that_is_not_met():
    met = set().union(*(imported(name) for name in PATH))
    assert not [name for name in PATH if name.startswith(tuple(DATA["skip"]))]
    assert not [skip for skip in DATA["skip"] if not any(name.startswith(skip) for name in met)]


def test_a_page_that_the_code_would_not_give_is_found_and_mended(tmp_path):
    # That docs/reading.md itself is up to date is asked by `python docs/reading.py`, not here: every changed line of
    # the library would make this test fail.
    page = tmp_path / "reading.md"
    assert not reading.reading(write=False, path=page)
    assert reading.reading(write=True, path=page)
    assert reading.reading(write=False, path=page)
    page.write_text(page.read_text(encoding="utf-8").replace(PATH[0], "gone.py"), encoding="utf-8")
    assert not reading.reading(write=False, path=page)
