"""The report of a scale on one page: markdown, the same as one HTML file with its figures; and the README's numbers.

Everything is read from results/ and figures/, and the paper's numbers from published/, so the same results give the
same bytes. What was not measured is left out or said to be missing. The committed scale's report is in results/,
another's in results/<scale>/.
"""

import base64
import html
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from importlib.resources import files
from os.path import normpath, relpath
from pathlib import Path

import mistune
import pandas as pd

from dbyte.atomic import up_to_date
from dbyte.evaluate.stats import AVERAGE, EQUAL
from dbyte.paths import COMMITTED_SCALE, FIGURES, NOTEBOOKS, RESULTS, ROOT
from dbyte.presets import Scale
from dbyte_paper import audit, claims, core_hours, sentences
from dbyte_paper.claims import UNMEASURED
from dbyte_paper.published import SOURCE
from dbyte_paper.real_teacher import MODELS, goals, kept_table
from dbyte_paper.resilience import open_questions
from dbyte_paper.results import read_if_any, read_results
from dbyte_paper.tables import both_students, estimates, main_table, markdown, with_error
from dbyte_paper.which_recipe import which_recipe

CAPTIONS = tomllib.loads((files("dbyte_paper") / "captions.toml").read_text(encoding="utf-8"))
ALL_COLUMNS = ("`all columns`: teacher and student of notebook 16, which were taught all columns. The other models "
               "were taught four. Averages are over the paper's columns, and SPELL is not one of them.")
CSS = (files("dbyte_paper") / "page.css").read_text(encoding="utf-8")
Read = Callable[[str], pd.DataFrame | None]  # the name of a results file -> its rows, None where there are none

BEGIN = "<!-- generated from results/ by `python -m dbyte readme --write` -->"  # around the README's numbers
PRIMARY = "primary_claims"  # the figure that follows Table 1
REAL = "real"  # the scale of the README's first table
END = "<!-- end of the generated part -->"


def blocks(scale: Scale, *, results: Path = RESULTS, figures: Path = FIGURES,
           notebooks: Path = NOTEBOOKS) -> Iterator[str]:
    """Yield the report's parts in order as markdown: each is a heading, a paragraph, a table or a picture."""
    found = claims.judged(scale=scale, folder=results, notebooks=notebooks)
    name = scale.name
    read = partial(read_if_any, scale=name, folder=results)
    yield (f"What the notebooks measured at scale `{name}`, next to {SOURCE}. Generated from `results/` and "
           "`figures/`; accuracy is in percent with its standard error, intervals are of 95 %.")
    yield from in_short(read, partial(read_if_any, scale=REAL, folder=results), found)
    yield from headline(read)
    if name == REAL and (columns := read("real_columns")) is not None:
        yield "## Goals"
        yield goals_met(columns, read("real_text"))
        yield markdown(pd.DataFrame(goals(columns, read("real_text"))))
    if (figures / name / f"{PRIMARY}.png").is_file():
        yield from picture(PRIMARY, figures / name, results / name, page=report_path(name, results=results).parent)
    yield from bits_and_boundaries(read)
    yield from which_recipe(read, partial(read_if_any, scale=REAL, folder=results))
    yield from open_questions(read)
    yield from pictures(figures / name, results / name, page=report_path(name, results=results).parent)
    yield from judged_claims(found)
    yield from slips()
    yield from costs(read)
    yield from commits(results / name)


def in_short(read: Read, real: Read, found: pd.DataFrame) -> Iterator[str]:
    """A list of sentences that can be quoted; real: reads the results of the pretrained teacher."""
    said = []
    if (columns := real("real_columns")) is not None:
        said += sentences.of_one_teacher(columns, real("real_text"))
    for name, taught in (("main", "four columns"), ("all_columns", "nine columns")):
        if (frame := read(name)) is not None:
            said += sentences.of_students(frame, columns=taught)
    said += [*sentences.of_claims(found), *sentences.of_arithmetic(audit.audit())]
    if (sums := read(core_hours.SECONDS)) is not None:
        said.append(core_hours.told(sums))
    elif (times := read("notebook_times")) is not None:
        said += sentences.of_costs(times)
    yield "## In short"
    yield "\n".join(f"- {sentence}" for sentence in said)


def headline(read: Read) -> Iterator[str]:
    """Teacher, Stage 1 and Stage 2."""
    yield "## What is kept"
    if (real := read("real_columns")) is not None:
        yield from one_teacher(real, read("real_text"), read("real_letters"))
    frame = read("main")
    if frame is None:
        if real is None:
            yield "Not measured yet: notebook 02 has not run at this scale."
        return
    seeds = ", ".join(map(str, frame.attrs["provenance"]["seeds"]))
    yield f"Held-out items per column: {int(frame['n'].min())} to {int(frame['n'].max())}. Seeds: {seeds}."
    every = read("all_columns")
    if every is not None:
        yield ALL_COLUMNS
    yield markdown(main_table(frame) if every is None else both_students(frame, every))
    if (letters := read("mini_cute")) is not None:
        yield "The letters of made-up words (MiniCUTE), by the models of notebook 16:"
        yield markdown(main_table(letters))


def one_teacher(columns: pd.DataFrame, text: pd.DataFrame | None, letters: pd.DataFrame | None) -> Iterator[str]:
    """What was measured of one teacher's student: accuracy, its text and what it knows of letters if that was asked."""
    yield (f"One teacher and its student (notebook 17), {seeds_of(columns)}, at most "
           f"{int(columns.loc[columns['task'] != AVERAGE, 'n'].max())} items a column, fewer after step 1.1 and where "
           "the teacher is near chance. A student of Stage 1 is read along the tokenizer's boundaries or its router's. "
           "The decoder of Stage 2 corrects what the token head says of bytes, and begins from it; the paper's begins "
           "from nothing (notebook 21 has both). "
           "Averages leave out columns where the teacher is near chance; what "
           "is kept is accuracy above chance over the teacher's, with the 95 % interval of resampled items.")
    yield markdown(kept_table(columns))
    if text is not None:
        models = [name for name in MODELS if name in set(text["model"])]
        yield "Held-out text (± standard error over pieces), along the same boundaries; Stage 2's bits are a bound:"
        yield markdown(estimates(text, rows=["corpus", "measure"], columns="model", order=models, digits=3))
    if letters is not None:
        average = letters[letters["task"] == AVERAGE].set_index("model")
        levels = ", ".join(f"{model} {with_error(row.value, row.stderr)}" for model, row in average.iterrows())
        yield (f"Letters (notebook 23), accuracy over {len(letters['task'].unique()) - 1} kinds of questions, "
               f"{int(average['n'].iloc[0])} items, where guessing gives {average['chance'].iloc[0]:.1f}: {levels}.")


def goals_met(columns: pd.DataFrame, text: pd.DataFrame | None) -> str:
    """How many of the goals of scale `real` are met, as a sentence."""
    found = goals(columns, text)
    met = sum(goal["verdict"].startswith("holds") for goal in found)
    return (f"{met} of {len(found)} goals that this project sets itself are met; \"within error\" says that a bound is "
            "closer than two standard errors.")


def seeds_of(frame: pd.DataFrame) -> str:
    """Return the seeds of results as words."""
    seeds = frame.attrs["provenance"]["seeds"]
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def bits_and_boundaries(read: Read) -> Iterator[str]:
    """Bits per byte of teacher and student, and how well the router's boundaries agree with the teacher's tokens."""
    if (bits := read("bits_stage1")) is not None:
        if (stage2_bits := read("bits")) is not None:
            bits = pd.concat([bits, stage2_bits[stage2_bits["model"] == "stage2"]])
        yield ("Bits per byte on held-out documents (± standard error over pieces); `stage2` is the joint score, a "
               "bound:")
        yield markdown(estimates(bits, rows=["model"], columns="corpus", order=sorted(set(bits["corpus"])), digits=4))
    if (edges := read("boundaries_stage1")) is not None:
        f1 = ", ".join(f"{row.corpus} {row.value:.2f} ± {row.stderr:.2f}" for row in edges.itertuples())
        yield f"The router's boundaries against the tokenizer's on held-out text, F1 in percent: {f1}."


def sidecars(folder: Path) -> dict[str, dict]:
    """Return what the .json files of a folder of results or figures hold, by their names."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def pictures(folder: Path, results: Path, *, page: Path) -> Iterator[str]:
    """The figures drawn from results, in the order of CAPTIONS; one that is older than its results says so.

    page: the folder of the report, from where the pictures are linked.
    """
    found = [name for name in sidecars(folder) if (folder / f"{name}.png").is_file() and name != PRIMARY]
    if found:
        yield "## Figures"
    for name in [*(name for name in CAPTIONS if name in found), *(name for name in found if name not in CAPTIONS)]:
        yield from picture(name, folder, results, page=page)


def picture(name: str, folder: Path, results: Path, *, page: Path) -> Iterator[str]:
    """One figure with its caption, and what it was drawn from."""
    now = {f"{other}.csv": facts.get("sha256") for other, facts in sidecars(results).items()}
    reads = {Path(file).name: sha256 for file, sha256 in sidecars(folder)[name]["reads"].items()}
    drawn = ", ".join(f"`{file}`" for file in reads) or "no results yet"
    title = CAPTIONS.get(name, name.replace("_", " ").capitalize() + ".")
    older = " These have changed since: run its notebook again." if not reads.items() <= now.items() else ""
    yield f"![{title.removesuffix('.')}]({Path(relpath(folder / f'{name}.png', page)).as_posix()})"
    yield f"{title} Drawn from {drawn}.{older}"


def judged_claims(found: pd.DataFrame) -> Iterator[str]:
    """The paper's claims: those with a verdict as a table, the others as one."""
    yield "## The paper's claims"
    if (found["verdict"] == UNMEASURED).all():
        yield (f"None is judged by this scale alone. `results/REPORT.md` judges all of them, by the results of scale "
               f"`{COMMITTED_SCALE}` and of the pretrained teacher of `{REAL}`.")
        return
    yield (f"Of {len(found)} claims: {claims.counts(found)}. A claim is shown, or its opposite, where the whole "
           f"interval is on one side of what it asks, and equal where it lies within {EQUAL:g} points of it; of the "
           f"{found['primary'].sum()} primary ones it must also pass Holm's test among them (p), the others are "
           "exploratory. Minutes are those of its notebook's longest run.")
    judged = found[found["verdict"].isin(claims.ORDER)]
    if len(judged):
        yield markdown(claims.shown(judged))
    if len(without := claims.uninformative(found)):
        yield ("Measured, and not judged: by a rule that was set before, these numbers could not have told whether "
               "the claim holds.")
        yield markdown(without)
    measured = found[found["verdict"] != UNMEASURED]
    if len(measured) < len(found):
        yield "Not measured:"
        yield markdown(claims.missing(found))


def slips() -> Iterator[str]:
    """Where the paper's own numbers do not fit together."""
    found = audit.audit()
    tally = found["verdict"].value_counts()
    yield "## The paper's arithmetic"
    yield (f"Of {len(found)} numbers that follow from others or are printed twice, {tally['agrees']} agree within "
           f"rounding, {tally['another model']} are another model's under one label, {tally['not derivable']} cannot "
           f"be derived and {tally['slip']} do not fit, for {len(audit.causes(found))} causes:")
    yield markdown(audit.causes(found))
    yield "Each of them; the paper gives no number of Tables 1 to 11 an interval or a second seed."
    yield markdown(found[found["verdict"] == "slip"].drop(columns=["verdict", "cause"]), digits=3)


def costs(read: Read) -> Iterator[str]:
    """How long it took, and on what."""
    yield "## Cost"
    if (sums := read(core_hours.SECONDS)) is not None:
        yield core_hours.told(sums)
        yield markdown(core_hours.by_notebook(sums), digits=1)
    if (times := read("notebook_times")) is not None:
        yield (f"{times['value'].sum() / 60:.0f} minutes for {len(times)} notebooks, the longest run of each: later "
               "runs load what is trained.")
        yield markdown(pd.DataFrame({"notebook": times["notebook"], "minutes": times["value"] / 60,
                                     "commit": times["commit"].str[:12] + times["commit"].str[40:]}), digits=1)
    if (main := read("main")) is not None:
        facts = main.attrs["provenance"]
        packages = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
        yield f"Measured on {facts['device']}, {facts['platform']}, with {packages}."
    if times is None and main is None and sums is None:
        yield "Nothing has been timed at this scale."


def commits(folder: Path) -> Iterator[str]:
    """Which commits of the code the results in `folder` are from."""
    made = {}
    for name, facts in sidecars(folder).items():
        commit = facts["commit"]
        made.setdefault(commit[:12] + commit[40:], []).append(name)  # from 40 on: `+changes`, where there were
    if made:
        several = f"{len(made)} commits, which one run of all notebooks would make one:"
        yield f"The results are of {'one commit:' if len(made) == 1 else several}"
        yield markdown(pd.DataFrame({"commit": made.keys(), "results": map(", ".join, made.values())}))


def as_html(title: str, text: str, *, folder: Path) -> str:
    """Return the markdown `text` as one HTML file that needs no other; its pictures are linked from `folder`."""
    def inside(link: re.Match) -> str:
        data = base64.b64encode(Path(normpath(folder / link[1])).read_bytes()).decode("ascii")
        return f'src="data:image/png;base64,{data}"'

    body = re.sub(r'src="([^"]+)"', inside, mistune.create_markdown(plugins=["table"])(text))
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{html.escape(title)}</title>\n<style>\n{CSS}</style>\n</head>\n<body>\n{body}</body>\n</html>\n")


def report_path(scale: str, *, results: Path = RESULTS) -> Path:
    """Return the path of a scale's markdown report; the HTML has the same name."""
    return (results if scale == COMMITTED_SCALE else results / scale) / "REPORT.md"


def report(scale: Scale, *, write: bool, results: Path = RESULTS, figures: Path = FIGURES,
           notebooks: Path = NOTEBOOKS) -> bool:
    """Return whether both files of a scale's report agree with its results; with `write` they are written first."""
    path = report_path(scale.name, results=results)
    title = f"dbyte at scale {scale.name}"
    parts = blocks(scale, results=results, figures=figures, notebooks=notebooks)
    text = "\n\n".join([f"# {title}", *parts]) + "\n"
    wanted = {path: text, path.with_suffix(".html"): as_html(title, text, folder=path.parent)}
    return all([up_to_date(file, text, write=write) for file, text in wanted.items()])


# -- the README --------------------------------------------------------------------------------------------------------


def readme_numbers(*, folder: Path = RESULTS) -> str:
    """Return the README's results as markdown, those of the pretrained teacher first where there are any.

    FileNotFoundError where those of the committed scale were never made.
    """
    read = partial(read_results, scale=COMMITTED_SCALE, folder=folder)
    real = partial(read_if_any, scale=REAL, folder=folder)
    lead = []
    if (columns := real("real_columns")) is not None:
        lead = [f"### A pretrained teacher: scale `{REAL}`",
                *one_teacher(columns, real("real_text"), real("real_letters")),
                f"{goals_met(columns, real('real_text'))} Each is in [results/{REAL}](results/{REAL}/REPORT.md).",
                f"### Teachers trained here: scale `{COMMITTED_SCALE}`"]
    main = read("main")
    stage1 = read("stage1")
    given = stage1[~stage1.model.isin(main.model.unique())]
    facts = main.attrs["provenance"]
    minutes = ", ".join(f"{row.notebook[:2]}: {row.value / 60:.0f}" for row in read("notebook_times").itertuples())
    return "\n\n".join((
        *lead, f"Scale `{COMMITTED_SCALE}`, {seeds_of(main)}, {facts['device']}. Accuracy in "
        f"percent ± standard error on at most {int(main.n.max())} held-out items per column; GSM8K is generated and "
        f"matched. {ALL_COLUMNS} Minutes of each notebook's longest run, which may have loaded models: {minutes}.",
        markdown(both_students(pd.concat([main, given]), read("all_columns")))))


def with_numbers(text: str, part: str) -> str:
    """Return the README's text with `part` between the markers; ValueError where they are missing."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"README.md must hold the lines {BEGIN!r} and {END!r} once each")
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n\n{part}\n\n{END}{rest.split(END)[1]}"


def readme(*, write: bool, path: Path = ROOT / "README.md") -> bool:
    """Return whether README.md agrees with the results; with `write` it is written first."""
    return up_to_date(path, with_numbers(path.read_text(encoding="utf-8"), readme_numbers()), write=write)
