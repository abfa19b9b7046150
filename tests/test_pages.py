"""What the pages tell a reader to type exists: commands, options, targets of make, fields and files of scales."""

import re
import shlex
import tomllib

import pytest

from dbyte import presets
from dbyte.__main__ import parser
from dbyte.paths import ROOT

PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))
                                           if path.name != "log.md")]  # what was typed on its day
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`]+)`")
COMMAND = re.compile(r"(?:^|\s)(?:python -m dbyte|dbyte) ((?:[a-z]+\b)(?![./]).*)")


def typed(page):
    """Lines that a page has for a terminal, continued ones joined, and what it names in between."""
    text = (ROOT / page).read_text(encoding="utf-8")
    fenced = "\n".join(code for kind, code in FENCE.findall(text) if kind in ("", "sh"))
    inline = [" ".join(code.split()) for code in INLINE.findall(FENCE.sub("", text))]
    return fenced.replace("\\\n", " ").splitlines() + inline


def commands(page):
    """The arguments of each `python -m dbyte`: `<hash>` stands for itself, and `...` for more."""
    for line in typed(page):
        if (found := COMMAND.search(line)) and "..." not in line:
            yield shlex.split(re.split(r";| > ", found[1])[0], comments=True)


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands(page))])
def test_a_command_of_a_page_is_one(page, capsys):
    for arguments in commands(page):
        if len(arguments) == 1 and arguments[0] in ("plan", "teacher", "generate", "push", "transfer", "evaluate"):
            continue  # named, not typed
        try:
            asked = parser().parse_args(arguments)
        except SystemExit:
            pytest.fail(f"{page}: dbyte {' '.join(arguments)}: {capsys.readouterr().err}")
        scale = getattr(asked, "scale", None) or "small"
        if scale in presets.SCALES:
            presets.scale(scale, getattr(asked, "settings", ()))
        if only := getattr(asked, "only", None):
            assert only == "NN" or all(list((ROOT / "notebooks").glob(f"{each}_*.py")) for each in only.split(","))


def test_the_pages_have_commands_of_every_kind():
    named = {arguments[0] for page in PAGES for arguments in commands(page)}
    assert {"reproduce", "train", "plan", "teacher", "generate", "evaluate", "runs", "scales", "transfer", "push",
            "readme", "report", "notebooks"} <= named


@pytest.mark.parametrize("page", PAGES)
def test_a_target_of_make_is_one(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {word for line in typed(page) for word in re.findall(r"^make ([a-z-]+)", line)}
    assert named <= targets


@pytest.mark.parametrize("page", [page for page in PAGES if "```toml" in (ROOT / page).read_text(encoding="utf-8")])
def test_a_scale_that_a_page_shows_can_be_read(page, tmp_path):
    for number, (kind, code) in enumerate(FENCE.findall((ROOT / page).read_text(encoding="utf-8"))):
        if kind == "toml":
            file = tmp_path / f"shown_{number}.toml"
            file.write_text(code, encoding="utf-8")
            assert presets.scale(str(file)).name == file.stem and "base" in tomllib.loads(code)
