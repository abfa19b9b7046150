"""Run the notebooks at one scale: all parameters checked first, one kernel each, results where the plan says.

The percent script is what runs. The executed notebook goes to runs/notebooks/<scale>/; at the committed scale the
.ipynb beside the script is written anew too, so that what readers see is what ran. What papermill only warns about (an
unknown parameter, a missing tag) is an error here, before anything runs.
"""

import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from dbyte.notebook.execution import Planned
from dbyte.notebook.pairing import find_scripts, parameters, read_notebook, read_script, with_outputs, write_notebook
from dbyte.notebook.schedule import Ended, in_turn, needs, threads_each, together
from dbyte.paths import COMMITTED_SCALE, FIGURES, NOTEBOOKS, RESULTS, ROOT, RUNS

TIMES = "notebook_times"  # the name of the results that remember what a notebook costs


def plan(
    scripts: tuple[Path, ...], *, given: Mapping[str, object], where_known: Mapping[str, object], out: Path
) -> tuple[Planned, ...]:
    """Read every notebook and check that it takes the `given` parameters.

    where_known: parameters for those notebooks that have them. Raises ValueError naming the first misfit, and for one
    of these that no notebook has.
    """
    planned = []
    for script in scripts:
        notebook = read_script(script)
        known = parameters(notebook, name=script.stem)
        mine = {**given, **{name: value for name, value in where_known.items() if name in known}}
        for name, value in mine.items():
            if name not in known:
                raise ValueError(f"{script.stem} has no parameter {name!r}: it takes {', '.join(known) or 'none'}")
            kind = type(known[name])
            if known[name] is not None and type(value) is not kind:
                raise ValueError(f"{script.stem}: parameter {name!r} must be {kind.__name__}, found {value!r}")
        planned.append(Planned(script=script, notebook=notebook, executed=out / f"{script.stem}.ipynb",
                               needs=needs(script), parameters=mine))
    for name in where_known:
        if not any(name in one.parameters for one in planned):
            raise ValueError(f"none of these notebooks has a parameter {name!r}: leave it out")
    return tuple(planned)


def remembered(scale: str, *, results: Path, device: str) -> dict[str, dict[str, object]]:
    """Return notebook -> its row of times at this scale, empty where none were kept or another device took them."""
    from dbyte.report.results import read_results

    try:
        frame = read_results(TIMES, scale=scale, folder=results)
    except (FileNotFoundError, ValueError):  # they cost nothing to lose
        return {}
    if frame.attrs["provenance"]["device"].split()[0] != device:
        return {}
    return {row["notebook"]: row for row in frame.to_dict("records")}


def remember(seconds: Mapping[str, float], *, scale: str, seed: int, results: Path, device: str) -> None:
    """Keep what the notebooks took: the longest of all runs, since a rerun that loads finished training says little.

    Faster code shows when the file is removed before a run from empty `runs/`.
    """
    from dbyte.report.provenance import commit
    from dbyte.report.results import write_results

    rows = remembered(scale, results=results, device=device)
    for name, took in seconds.items():
        if name not in rows or took > rows[name]["value"]:
            rows[name] = {"notebook": name, "value": round(took, 1), "stderr": float("nan"), "n": 1, "commit": commit()}
    write_results(TIMES, list(rows.values()), scale=scale, keys=["notebook"], seeds=[seed], config_hash="none",
                  wall_seconds=sum(seconds.values()), device=device, folder=results)


def shown(path: Path) -> str:
    """Return the path as a reader at the root would type it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def counted(planned: tuple[Planned, ...]) -> str:
    return "1 notebook" if len(planned) == 1 else f"{len(planned)} notebooks"


def announce(
    planned: tuple[Planned, ...], *, scale: str, given: Mapping[str, object], results: Path, jobs: int, device: str
) -> None:
    """Print what will run, how long each took here before, and where everything goes."""
    rows = remembered(scale, results=results, device=device)
    threads = threads_each(jobs)
    at_once = f" {jobs} at a time on {threads} thread{'s' * (threads != 1)} each," if jobs > 1 else ""
    print(f"dbyte reproduce: scale {scale}, {counted(planned)},{at_once} parameters "
          + ", ".join(f"{name}={value!r}" for name, value in given.items()))
    for one in planned:
        cost = f"{rows[one.name]['value'] / 60:.1f} min before" if one.name in rows else "not timed yet"
        print(f"  {one.name:28s} {cost:16s} -> {shown(one.executed)}")
    print(f"  results -> {shown(results / scale)}/   figures -> {shown(FIGURES / scale)}/   training is cached in "
          f"{shown(RUNS)}/", flush=True)


def reproduce(
    scale: str, *, only: str | None = None, out: Path | None = None, seed: int = 0, jobs: int = 1,
    ablation_seeds: int | None = None, extra: Mapping[str, object] | None = None, notebooks: Path = NOTEBOOKS,
    results: Path = RESULTS,
) -> int:
    """Run the notebooks in order, write the report on all results, and return 0, or 1 if one fails, which is named.

    scale: a preset's name. only: some notebooks, such as `01,02`. out: the folder of the executed notebooks, by default
    runs/notebooks/<scale>. jobs: how many run at a time; after one that failed none starts. ablation_seeds: students of
    each row of an ablation, in place of the scale's number. extra: more parameters than scale and seed. Raises
    ValueError before anything runs for an unknown scale, notebook or parameter, or one of the wrong type, for needs
    that are no earlier notebooks, a device that is not here, and jobs below 1;
    FileNotFoundError where the scale reads text of one's own and there is none.
    """
    from dbyte import presets
    from dbyte.device import check_device
    from dbyte.report.page import report, report_path
    from dbyte.text.corpus import check_files

    if jobs < 1:
        raise ValueError(f"jobs must be a whole number of at least 1, found {jobs}")
    given = {"scale": scale, "seed": seed, **(extra or {})}
    where_known = {} if ablation_seeds is None else {"ablation_seeds": ablation_seeds}
    chosen = presets.changed(presets.scale(scale), **where_known)  # refuses a wrong number before anything runs
    check_device(chosen.device)
    check_files(name for name, _ in chosen.corpora)
    planned = plan(find_scripts(notebooks, only=only), given=given, where_known=where_known,
                   out=out or RUNS / "notebooks" / scale)
    jobs = min(jobs, len(planned))
    announce(planned, scale=scale, given=given | where_known, results=results, jobs=jobs, device=chosen.device)
    began, done, failed = time.monotonic(), {}, []
    with closing(in_turn(planned) if jobs == 1 else together(planned, jobs=jobs)) as ended:
        for one in ended:
            if one.failure is None:
                done[one.planned.name] = one.seconds
                keep(one, scale=scale, seed=seed, results=results, alone=jobs == 1, device=chosen.device)
            else:
                failed.append(one.planned.name)
                say_failure(one)
    if failed:
        left = [one.name for one in planned if one.name not in [*done, *failed]]
        print(f"failed: {', '.join(failed)}" + (f"; not started: {', '.join(left)}" if left else ""), flush=True)
        return 1
    report(scale, write=True, results=results)
    print(f"{counted(planned)} done in {(time.monotonic() - began) / 60:.1f} min, "
          f"{sum(done.values()) / 60:.1f} min of notebooks; "
          f"results in {shown(results / scale)}/, figures in {shown(FIGURES / scale)}/, "
          f"report in {shown(report_path(scale, results=results))} and .html", flush=True)
    return 0


def keep(one: Ended, *, scale: str, seed: int, results: Path, alone: bool, device: str) -> None:
    """Say that a notebook is done and, at the committed scale, write its pair.

    alone: no other shared its cores, so what it took is kept.
    """
    planned = one.planned
    print(f"[{planned.name}] done in {one.seconds:.1f} s: {shown(planned.executed)}", flush=True)
    if alone:
        remember({planned.name: one.seconds}, scale=scale, seed=seed, results=results, device=device)
    if scale == COMMITTED_SCALE:
        executed = read_notebook(planned.executed)
        write_notebook(planned.script.with_suffix(".ipynb"), with_outputs(planned.notebook, executed=executed))


def say_failure(one: Ended) -> None:
    """Print what went wrong in a notebook, and where what ran of it lies."""
    print(f"[{one.planned.name}] FAILED after {one.seconds:.1f} s\n{one.failure}", flush=True)
    so_far = one.planned.executed.with_suffix(".failed.ipynb")
    if so_far.exists():
        print(f"The notebook so far: {shown(so_far)}", flush=True)
