"""The README's numbers, written from results/small: what stands between the two markers is generated, never typed."""

from pathlib import Path

import pandas as pd

from dbyte.atomic import atomic_write
from dbyte.paths import COMMITTED_SCALE as SCALE
from dbyte.paths import RESULTS, ROOT
from dbyte.report.results import read_results
from dbyte.report.tables import main_table, markdown

BEGIN = "<!-- generated from results/small by `python -m dbyte readme --write` -->"
END = "<!-- end of the generated part -->"


def generated(*, folder: Path = RESULTS) -> str:
    """The README's results at `small` as markdown; FileNotFoundError where they were never made."""
    main, bits, edges = (read_results(name, scale=SCALE, folder=folder) for name in
                         ("main", "bits_stage1", "boundaries_stage1"))
    stage2, stage1, times = (read_results(name, scale=SCALE, folder=folder)
                             for name in ("bits", "stage1", "notebook_times"))
    every = read_results("all_columns", scale=SCALE, folder=folder)
    given = stage1[~stage1.model.isin(main.model.unique())]
    facts = main.attrs["provenance"]
    return "\n\n".join((
        f"Scale `{SCALE}`, seeds {', '.join(map(str, facts['seeds']))}, {facts['device']}. Accuracy in "
        f"percent ± standard error on {int(main.n.max())} held-out items a column at most; GSM8K is generated and "
        "matched. Minutes of each notebook at its longest, what it found trained not counted: "
        + ", ".join(f"{row.notebook[:2]}: {row.value / 60:.0f}" for row in times.itertuples()) + ".",
        markdown(main_table(pd.concat([main, given]))),
        "Teacher and students of the whole world (notebook 16), on all nine columns and spelling:",
        markdown(main_table(every[every.model.isin(main.model.unique())])),
        "Bits per byte on held-out documents (± standard error over pieces); `stage2` is the joint score, a bound:",
        markdown(_by_model(pd.concat([bits, stage2[stage2.model == "stage2"]]))),
        "Router against the tokenizer on held-out text, F1 in percent: "
        + ", ".join(f"{row.corpus} {row.value:.2f} ± {row.stderr:.2f}" for row in edges.itertuples()) + "."))


def _by_model(bits: pd.DataFrame) -> pd.DataFrame:
    """One row a model, one column a corpus."""
    shown = bits.assign(shown=[f"{row.value:.4f} ± {row.stderr:.4f}" for row in bits.itertuples()])
    return shown.pivot(index="model", columns="corpus", values="shown").reset_index().rename_axis(columns=None)


def updated(text: str, part: str) -> str:
    """The README's text with `part` between the markers; ValueError where they are missing."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"README.md must hold the lines {BEGIN!r} and {END!r} once each")
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n\n{part}\n\n{END}{rest.split(END)[1]}"


def readme(*, write: bool, path: Path = ROOT / "README.md") -> bool:
    """Whether README.md agrees with the results; with `write` it is made to."""
    text = path.read_text(encoding="utf-8")
    wanted = updated(text, generated())
    if write and wanted != text:
        atomic_write(path, wanted)
    return wanted == text or write
