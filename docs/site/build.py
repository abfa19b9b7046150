"""The documentation site: the pages of docs/, the executed notebooks and a page for each module, with search.

    pip install -r docs/site/requirements.txt
    python docs/site/build.py --out site

Pages keep their places, so that their links to each other stay as they are. A link to a module leads to its page, one
to a notebook to the executed one, one to any other file to a copy of it. mkdocs builds in its strict mode, and then
every link of the HTML is followed: a dead one ends the build with status 1. Addresses on the web are not asked.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKAGES = ("dbyte", "dbyte_paper", "dbyte_tasks")
GUIDES = ("README.md", "docs/using.md", "docs/your_own_model.md", "docs/training.md", "docs/evaluation.md",
          "docs/extending.md", "docs/notebooks.md", "CONTRIBUTING.md")
BACKGROUND = ("docs/reading.md", "docs/deviations.md", "docs/log.md", "results/REPORT.md", "results/gpu/REPORT.md",
              "CHANGELOG.md")
LINK = re.compile(r"(?P<before>\]\()(?P<path>[^)#\s:]+)(?P<anchor>#[^)\s]*)?(?P<after>\))")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)


# -- pages ------------------------------------------------------------------------------------------------------------


def page_of(path: str) -> str:
    """Where a file of the repository is found in the site: `dbyte/x.py` -> `api/dbyte/x.md`."""
    if path == "README.md":
        return "index.md"
    if path.endswith(".ipynb"):
        return path.removesuffix(".ipynb") + ".md"
    if path.endswith(".py") and path.split("/")[0] in PACKAGES:
        return f"api/{path.removesuffix('.py').removesuffix('/__init__')}.md"
    return path


def turned(text: str, source: str) -> tuple[str, set[str]]:
    """Turn the links of a page to where their files are in the site; also returns the files that they name.

    source: the page's path in the repository, to which its links are relative. Code is left alone. Raises ValueError
    for a link out of the repository.
    """
    named = set()
    here = PurePosixPath(page_of(source)).parent

    def turn(match: re.Match) -> str:
        target = normal(PurePosixPath(source).parent / unquote(match["path"]), source)
        named.add(target)
        return f"{match['before']}{relative(page_of(target), here)}{match['anchor'] or ''}{match['after']}"

    pieces, at = [], 0
    for fence in FENCE.finditer(text):
        pieces += [LINK.sub(turn, text[at : fence.start()]), fence[0]]
        at = fence.end()
    return "".join([*pieces, LINK.sub(turn, text[at:])]), named


def normal(path: PurePosixPath, source: str) -> str:
    """A path without `..`; ValueError that names the page if it leads out of the repository."""
    parts = []
    for part in path.parts:
        if part == ".." and not parts:
            raise ValueError(f"{source} links to {path}, which is outside the repository: link to a file in it")
        parts = parts[:-1] if part == ".." else [*parts, part]
    return "/".join(parts)


def relative(target: str, folder: PurePosixPath) -> str:
    """The link to a page from a page in `folder`."""
    parts, wanted = list(folder.parts), target.split("/")
    while parts and len(wanted) > 1 and parts[0] == wanted[0]:
        parts, wanted = parts[1:], wanted[1:]
    return "/".join([".."] * len(parts) + wanted)


def notebook_page(path: Path, folder: Path) -> str:
    """An executed notebook as Markdown, its pictures written next to the page into `folder`."""
    import nbformat
    from nbconvert import MarkdownExporter

    name = path.stem
    text, resources = MarkdownExporter().from_notebook_node(
        nbformat.read(path, as_version=4), {"unique_key": name, "output_files_dir": f"{name}_files"})
    for file, data in resources["outputs"].items():
        write(folder / file, data)
    return text


def write(path: Path, data: str | bytes) -> None:
    """Write a file and the folder around it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def gather(stage: Path) -> list:
    """Write all pages and what they link to below `stage`; returns mkdocs' navigation.

    Raises FileNotFoundError that names the page and the file if a page links to a file that is not there.
    """
    benchmarks = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("benchmarks/*.md"))
    notebooks = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("notebooks/[0-9][0-9]_*.ipynb"))
    pages = {*GUIDES, *BACKGROUND, *benchmarks, *notebooks}
    for source in sorted(pages):
        raw = (notebook_page(ROOT / source, stage / "notebooks") if source.endswith(".ipynb")
               else (ROOT / source).read_text(encoding="utf-8"))
        text, named = turned(raw, source)
        write(stage / page_of(source), text)
        for file in named - pages:
            if page_of(file) == file and not (stage / file).exists():
                if not (ROOT / file).is_file():
                    raise FileNotFoundError(f"{source} links to {file}, which is not there: mend the link")
                write(stage / file, (ROOT / file).read_bytes())
    return [{"Guides": [*map(page_of, GUIDES)]}, {"Notebooks": [*map(page_of, notebooks)]},
            {"Background": [*map(page_of, BACKGROUND)]}, {"Speed": [*map(page_of, benchmarks)]},
            {"API": modules(stage)}]


def modules(stage: Path) -> list:
    """Write a page for each module that has a docstring; returns their navigation, a section for each folder."""
    sections: dict[str, list] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            source = path.relative_to(ROOT).as_posix()
            page = page_of(source)
            name = page.removeprefix("api/").removesuffix(".md").replace("/", ".")
            write(stage / page, f"# {name}\n\n::: {name}\n")
            sections.setdefault(str(PurePosixPath(source).parent), []).append({name: page})
    return [{folder: pages} for folder, pages in sections.items()]


# -- links ------------------------------------------------------------------------------------------------------------


class Anchors(HTMLParser):
    """The ids of a page, and what its tags link to."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        for name, value in attributes:
            if value and (name == "id" or (tag == "a" and name == "name")):
                self.ids.add(value)
            elif value and name in ("href", "src"):
                self.links.append(value)


def dead_links(site: Path) -> Iterator[str]:
    """Each link of a built site that leads to no file or to no place in one: `page: link`."""
    pages = {path: Anchors(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    for path, page in sorted(pages.items()):
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            start = site if parts.path.startswith("/") else path.parent
            target = (start / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            known = pages.get(target)
            if not target.is_file() or (anchor and known and anchor not in known.ids and anchor != "__top"):
                yield f"{path.relative_to(site)}: {link}"


# -- the site ---------------------------------------------------------------------------------------------------------


def build(out: Path) -> list[str]:
    """Build the site into `out`, which is replaced; returns its dead links. Raises as `gather`, or if mkdocs fails."""
    import yaml

    with tempfile.TemporaryDirectory() as beside:
        stage = Path(beside) / "pages"
        settings = yaml.safe_load((HERE / "mkdocs.yml").read_text(encoding="utf-8"))
        settings |= {"docs_dir": str(stage), "site_dir": str(out.resolve()), "nav": gather(stage)}
        for plugin in settings["plugins"]:
            if isinstance(plugin, dict):
                plugin["mkdocstrings"]["handlers"]["python"]["paths"] = [str(ROOT)]
        (Path(beside) / "mkdocs.yml").write_text(yaml.safe_dump(settings, sort_keys=False))
        shutil.rmtree(out, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--config-file",
                        str(Path(beside) / "mkdocs.yml")], check=True)
    return list(dead_links(out.resolve()))


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--out", type=Path, default=ROOT / "site", help="folder of the site (default site/)")
    out = arguments.parse_args().out
    dead = build(out)
    print("\n".join(dead) or f"{sum(1 for _ in out.rglob('*.html'))} pages in {out}, no dead link")
    return 1 if dead else 0


if __name__ == "__main__":
    sys.exit(main())
