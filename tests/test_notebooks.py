"""The notebooks: each script and its .ipynb agree by content, and both keep the rules that let any runner run them."""

import ast
import importlib.util
import os
import re
import shutil
from fnmatch import fnmatch
from pathlib import Path

import jupytext
import nbformat
import pytest
from jupyter_server.services.contents.largefilemanager import LargeFileManager
from jupytext.sync_contentsmanager import build_sync_jupytext_contents_manager_class
from nbclient import NotebookClient

from dbyte.paths import FIGURES, RESULTS, ROOT
from dbyte_paper import pairing
from dbyte_paper.pairing import home_scale, mismatches, needs, parameters, read_notebook, read_script, tags
from dbyte_paper.reproduce import KERNEL, TIMES, remember

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if pairing.NAME.fullmatch(path.stem))
EXPECTED = {"00_teacher", "01_stage1_curriculum", "02_stage2_byte_sft", "03_on_policy",
            "04_ablation_alignment", "05_ablation_encoder",
            "06_decoding_strategies", "07_boundary_visualization", "08_robustness", "09_router", "10_teacher_scale",
            "11_baselines", "13_domains",
            "14_curriculum_order", "15_ablation_byte_sft", "16_all_columns", "17_real_teacher",
            "18_real_controls", "19_rates_and_doses", "20_recipe", "21_real_stage2", "22_resilience",
            "23_letters", "24_stage2_targets", "99_claims"}
LINES = 15
SHELL = {"subprocess", "pip", "os.system", "get_ipython"}
RECORDER = {"write_results", "read_results", "time", "environment"}  # only `results.begin` gives these

SPEC = importlib.util.spec_from_file_location("notebooks_page", ROOT / "docs" / "notebooks.py")
page = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(page)

each = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_expected_notebooks_are_there_and_no_half_pair():
    assert EXPECTED <= {path.stem for path in SCRIPTS}
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {path.stem for path in SCRIPTS}


@each
def test_the_pair_agrees_and_both_ask_for_kernel_python3(script):
    paired = read_notebook(script.with_suffix(".ipynb"))
    assert not mismatches(read_script(script), paired)
    for notebook in (jupytext.read(script), paired):
        assert (notebook.metadata["kernelspec"]["name"], notebook.metadata["kernelspec"]["language"]) == (
            "python3", "python")


@each
def test_it_declares_the_earlier_notebooks_that_it_builds_on(script):
    assert "needs" in jupytext.read(script).metadata.get("dbyte", {}), "what --jobs must wait for, in the header"
    number = script.stem[:2]
    earlier = {path.stem[:2] for path in SCRIPTS if path.stem[:2] < number}
    assert needs(script) == earlier if number == "99" else needs(script) <= earlier
    for other in SCRIPTS:  # where one in between is left out, what it builds on is still waited for
        assert other.stem[:2] not in needs(script) or needs(other) <= needs(script), other.stem


@each
def test_the_committed_notebook_shows_a_scale_of_results_not_smoke(script):
    assert home_scale(script) in ("small", "real"), "make reproduce, at smoke, writes to ignored places only"


@each
def test_it_opens_with_title_and_prose_and_its_parameters_are_plain_literals_that_something_reads(script):
    notebook = read_script(script)
    first, second = notebook.cells[:2]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    assert "parameters" in tags(second) or second.cell_type == "markdown"
    found = parameters(notebook, name=script.stem)
    assert isinstance(found["scale"], str) and isinstance(found["seed"], int)
    (cell,) = [cell for cell in notebook.cells if "parameters" in tags(cell)]
    assert len(ast.parse(cell.source).body) == len(found), "one parameter a line"


@each
def test_cells_are_short_python_without_magics_shell_or_installs_and_a_line_says_one_thing(script):
    """`a, b = f(), g()` names two unrelated things at once, and is the first thing that a newcomer stumbles over."""
    for cell in code_cells(read_script(script)):
        assert len(cell.source.strip().split("\n")) <= LINES, cell.source
        assert not re.search(r"^\s*[%!?]", cell.source, flags=re.MULTILINE), cell.source
        nodes = list(ast.walk(ast.parse(cell.source)))
        names = {ast.unparse(node) for node in nodes if isinstance(node, ast.Name | ast.Attribute)}
        modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        assert not SHELL & (names | modules), cell.source
        for node in nodes:
            several = isinstance(node, ast.Assign) and any(isinstance(each, ast.Tuple | ast.List)
                                                           for each in node.targets)
            assert not (several and isinstance(node.value, ast.Tuple | ast.List)), ast.unparse(node)


@each
def test_its_setup_is_short_and_its_numbers_go_through_one_recorder(script):
    cells = [cell.source for cell in code_cells(read_script(script))]
    (begun,) = [source for source in cells if "results.begin(" in source]
    assert begun is cells[2], "parameters, imports, then the setup"
    names = {name for source in cells for node in ast.walk(ast.parse(source))
             for name in (getattr(node, "id", ""), getattr(node, "attr", ""), getattr(node, "name", ""))}
    assert not RECORDER & names


@each
def test_it_imports_dbyte_before_torch_whose_threads_then_sleep_while_they_wait(script):
    """Under a bare papermill nothing else asks OpenMP for it, and threads that spin lose to a busy neighbour."""
    modules = [name for cell in code_cells(read_script(script)) for node in ast.parse(cell.source).body
               for name in ([node.module] if isinstance(node, ast.ImportFrom) else
                            [alias.name for alias in node.names] if isinstance(node, ast.Import) else [])]
    slow = [name.split(".")[0] for name in modules if re.match(r"(dbyte|torch|transformers)", name)]
    assert slow[0].startswith("dbyte"), modules


@pytest.mark.parametrize(("number", "calls", "sources"), [
    ("01", {"encode", "route", "find_chunks", "chunk_embeddings", "run_core", "token_head"},
     {"losses.align", "losses.distill", "losses.boundary"}),
    ("02", {"encode", "route", "find_chunks", "run_core", "dechunk", "decode", "byte_head"},
     {"dechunk", "losses.joint_labels", "losses.next_byte"}),
    ("06", {"encode", "route", "ByteStream", "step"}, {"terms.second_byte.loss"}),
])
def test_a_reading_part_walks_through_the_model_and_shows_its_loss(number, calls, sources):
    """Encode, route, chunk, core and head in sight, before anything is measured."""
    (script,) = [path for path in SCRIPTS if path.stem.startswith(number)]
    cells = read_script(script).cells
    headings = [cell.source.split("\n")[0] for cell in cells if cell.source.startswith("## ")]
    assert headings[0].startswith("## Reading: ")
    begin, end = (next(i for i, cell in enumerate(cells) if cell.source.startswith(text)) for text in headings[:2])
    made = [node for cell in code_cells(read_script(script)) if cell in cells[begin:end]
            for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Call)]
    assert calls <= {ast.unparse(node.func).split(".")[-1] for node in made}
    assert sources == {ast.unparse(node.args[0]) for node in made if ast.unparse(node.func) == "miniature.source"}


@each
def test_the_committed_outputs_are_whole_of_one_commit_and_below_the_parameters_that_made_them(script):
    notebook = read_notebook(script.with_suffix(".ipynb"))
    assert not [output for cell in code_cells(notebook) for output in cell.outputs if output.output_type == "error"]
    assert "papermill" not in notebook.metadata
    assert not [key for cell in notebook.cells for key in cell.metadata if key != "tags"]
    times = RESULTS / home_scale(script) / "notebook_times.csv"
    if not (times.exists() and f"\n{script.stem}," in times.read_text(encoding="utf-8")):
        assert not [cell for cell in code_cells(notebook) if cell.outputs]
        pytest.skip(f"{script.stem} has not run at scale {home_scale(script)} yet, and so has no outputs")
    if not any(cell.outputs for cell in code_cells(notebook)):
        pytest.skip(f"{script.stem} was changed since it ran at scale {home_scale(script)}, and shows nothing of then")
    (given,) = [cell.source for cell in notebook.cells if tags(cell) == (pairing.INJECTED,)]
    values = {line.targets[0].id: ast.literal_eval(line.value) for line in ast.parse(given).body}
    assert values.keys() <= parameters(notebook, name=script.stem).keys() and values["scale"] == home_scale(script)
    (printed,) = [output.text for cell in code_cells(notebook) for output in cell.outputs
                  if "results.begin(" in cell.source]
    assert printed.startswith(f"scale    {values['scale']}, seed {values['seed']}\n")
    assert len(re.findall(r"^code +[0-9a-f]{40}(?:\+changes)?$", printed, flags=re.MULTILINE)) == 1


def test_a_notebook_that_is_newer_than_its_script_opens_in_jupyterlab(tmp_path):
    """As after a `git pull` that brings new outputs alone."""
    shutil.copy(FOLDER.parent / "jupytext.toml", tmp_path)
    for suffix in (".py", ".ipynb"):
        shutil.copy(FOLDER / f"02_stage2_byte_sft{suffix}", tmp_path)
    newer = (tmp_path / "02_stage2_byte_sft.py").stat().st_mtime + 3600
    os.utime(tmp_path / "02_stage2_byte_sft.ipynb", (newer, newer))
    manager = build_sync_jupytext_contents_manager_class(LargeFileManager)(root_dir=str(tmp_path))
    cells = manager.get("02_stage2_byte_sft.ipynb")["content"]["cells"]
    assert any(cell.get("outputs") for cell in cells)


def test_the_cells_above_the_results_show_a_reader_what_runs_and_no_warning_or_bar_of_others():
    """In a kernel as JupyterLab starts it; papermill's runner turns bars off beforehand."""
    opening = code_cells(read_script(FOLDER / "05_ablation_encoder.py"))[:3]
    load = nbformat.v4.new_code_cell(
        "import tempfile, transformers as t\n"
        "t.LlamaModel(t.LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, "
        "num_attention_heads=1)).save_pretrained(folder := tempfile.mkdtemp())\n"
        "_ = t.LlamaModel.from_pretrained(folder)")
    notebook = nbformat.v4.new_notebook(cells=[*opening, load])
    names = ("HF_HUB_DISABLE_PROGRESS_BARS", "TQDM_DISABLE")
    env = {name: value for name, value in os.environ.items() if name not in names}
    NotebookClient(notebook, kernel_name="python3", timeout=300, resources={"metadata": {"path": str(ROOT)}}).execute(
        env=env | KERNEL | {"PYTHONPATH": str(ROOT)})
    shown = [(output.get("name"), output.get("text", "")) for cell in code_cells(notebook) for output in cell.outputs]
    assert [name for name, _ in shown] == ["stdout"] and shown[0][1].startswith("scale    smoke, seed 0"), shown


# -- docs/notebooks.md ------------------------------------------------------------------------------------------------


@each
def test_its_header_leads_to_its_row_which_says_what_its_code_reads_and_writes(script):
    # Minutes and memory change with every run: `python docs/notebooks.py`, which CI runs, compares those too.
    assert "](../docs/notebooks.md)" in read_script(script).cells[0].source, "after **Cost:** in the title's cell"
    (row,) = [line for line in page.PAGE.read_text(encoding="utf-8").splitlines() if f"[{script.stem}](" in line]
    assert row.endswith(page.what(script)), "python docs/notebooks.py --write"


@pytest.mark.parametrize("scale", ["small", "real"])
def test_every_committed_result_and_figure_is_written_by_a_notebook_of_the_page(scale):
    for folder, suffix, names in ((RESULTS, ".csv", page.results), (FIGURES, ".png", page.pictures)):
        written = set().union(*(names(script) for script in SCRIPTS))
        found = {path.stem for path in (folder / scale).glob(f"*{suffix}")} - {TIMES}
        assert found and not [name for name in found if not any(fnmatch(name, each) for each in written)]


def test_the_page_has_minutes_and_memory_where_they_were_measured_and_reads_code(tmp_path):
    path = tmp_path / "00_a.py"
    path.write_text("""# ---
# jupyter:
#   dbyte:
#     needs: []
# ---

# %% [markdown]
# # See `dbyte_paper/published/claims.toml`, $DBYTE_TEXT

# %%
def kept(data, name):
    with record(name, keys=["a"], of=data) as rows:
        rows += data
kept(3, "one")
kept(4, "two")
file = f"drawn_{kept}"
figures.save(picture, file, frames=[record.read("one"), record.read("other")])
figures.write_png(picture, FIGURES / "small" / "plain.png")
""", encoding="utf-8")
    row = "| `$DBYTE_TEXT`, `other`, `published/claims` | `one`, `two` | `drawn_*`, `plain` |"
    assert page.page((path,), folder=tmp_path).splitlines()[-1] == (
        f"| [00_a](../notebooks/00_a.ipynb) | small |  |  |  {row}")
    remember("00_a", 90.0, 2_340_000_000, scale="small", seed=0, results=tmp_path, device="cpu")
    assert page.page((path,), folder=tmp_path).endswith(f"| small | 1.5 | 2.3 |  {row}\n")
