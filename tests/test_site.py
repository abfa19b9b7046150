"""The documentation site: links are turned to where files are, a dead one is found; all of it where mkdocs is."""

import importlib.util
import subprocess
import sys

import pytest

from dbyte.paths import ROOT

SPEC = importlib.util.spec_from_file_location("site_build", ROOT / "docs" / "site" / "build.py")
build = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(build)


@pytest.mark.parametrize("source, link, turned", [
    ("README.md", "docs/using.md", "docs/using.md"), ("docs/using.md", "../README.md#what", "../index.md#what"),
    ("docs/reading.md", "../dbyte/model/student.py", "../api/dbyte/model/student.md"),
    ("README.md", "notebooks/00_teacher.ipynb", "notebooks/00_teacher.md"),
    ("results/gpu/REPORT.md", "../../dbyte/__init__.py", "../../api/dbyte.md"),
    ("docs/log.md", "training.md", "training.md"), ("README.md", "tests/test_house.py", "tests/test_house.py")])
def test_a_link_leads_to_where_the_file_is(source, link, turned):
    text = f"see [it]({link}) and `[this]({link})`.\n\n```sh\n[code]({link})\n```\n\n[web](https://x.org/a.py)"
    found, named = build.turned(text, source)
    assert f"[it]({turned})" in found and f"[code]({link})" in found and "(https://x.org/a.py)" in found
    assert len(named) == 1


def test_a_link_out_of_the_repository_is_refused():
    with pytest.raises(ValueError, match="docs/using.md links to .*outside the repository"):
        build.turned("[x](../../secret.md)", "docs/using.md")


def test_every_link_of_the_pages_names_a_file_and_every_module_has_a_page(tmp_path, monkeypatch):
    # Without its pictures: what turns a notebook into Markdown is of the site's own environment.
    monkeypatch.setattr(build, "notebook_page", lambda path, _: path.with_suffix(".py").read_text(encoding="utf-8"))
    sections = {title: pages for section in build.gather(tmp_path) for title, pages in section.items()}
    listed = [page for pages in sections.values() for page in pages if isinstance(page, str)]
    assert all((tmp_path / page).is_file() for page in listed) and "index.md" in listed and "docs/log.md" in listed
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.md")}
    modules = {build.page_of(path.relative_to(ROOT).as_posix()) for name in build.PACKAGES
               for path in (ROOT / name).rglob("*.py")}
    assert modules <= written
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert pages <= set(listed), "a page of docs/ is in no section of docs/site/build.py"


def test_a_dead_link_is_found(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "index.html").write_text('<h1 id="top">x</h1><a href="../">up</a><a href="#top">top</a>')
    (tmp_path / "index.html").write_text(
        '<a href="folder/#top">well</a><a href="folder/#gone">no anchor</a><a href="gone/">no page</a>'
        '<img src="gone.png"><a href="https://x.org/gone">web</a><a href="mailto:a@x.org">mail</a>')
    assert list(build.dead_links(tmp_path)) == [
        "index.html: folder/#gone", "index.html: gone/", "index.html: gone.png"]


@pytest.mark.exhaustive
@pytest.mark.skipif(not importlib.util.find_spec("mkdocs"), reason="the site is not built: mkdocs is not installed "
                    "(pip install -r docs/site/requirements.txt, in an environment of its own)")
def test_the_site_is_built_without_a_dead_link(tmp_path):
    done = subprocess.run([sys.executable, ROOT / "docs" / "site" / "build.py", "--out", tmp_path / "site"],
                          capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "search" / "search_index.json").is_file()
