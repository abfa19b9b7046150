"""The notebooks in JupyterLab as readers see them: in a real browser, from a fresh clone, which nobody has trusted.

    pip install playwright==1.65.2 && apt-get install chromium      (or: playwright install chromium; or $CHROMIUM)
    python -m pytest -m exhaustive tests/test_browser.py

Without playwright or a browser all of it is skipped.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from dbyte.paths import ROOT
from dbyte_paper.pairing import INJECTED, read_notebook, tags
from dbyte_paper.reproduce import KERNEL

WHY = "no notebook is looked at in JupyterLab: no {} here (pip install playwright==1.65.2 && apt-get install chromium)"
playwright = pytest.importorskip("playwright.sync_api", reason=WHY.format("playwright"))
pytestmark = pytest.mark.exhaustive

BROWSER = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
TOKEN = "looked-at"
SECONDS = 300  # for a notebook to open
RUN_SECONDS = 1200  # for one to run at smoke
SIGHT = {"width": 1280, "height": 720}
TALL = 12_000  # pixels, in which a notebook at smoke is seen whole
ERRORS = ".jp-Notebook [data-mime-type='application/vnd.jupyter.error']"
PICTURES = ".jp-Notebook .jp-OutputArea img"
# How many colours, black, white and grey left out, a picture shows.
COLOURS = """picture => {
    const canvas = document.createElement('canvas'), found = new Set();
    [canvas.width, canvas.height] = [picture.naturalWidth, picture.naturalHeight];
    const pen = canvas.getContext('2d');
    pen.drawImage(picture, 0, 0);
    const bytes = pen.getImageData(0, 0, canvas.width, canvas.height).data;
    for (let i = 0; i < bytes.length; i += 4) {
        const [r, g, b] = bytes.subarray(i, i + 3);
        if (Math.max(r, g, b) - Math.min(r, g, b) > 30) found.add(r << 16 | g << 8 | b);
    }
    return found.size;
}"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A fresh clone: what is committed, and nothing that a run has left."""
    folder = tmp_path_factory.mktemp("fresh") / "dbyte"
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    return folder


@pytest.fixture(scope="module")
def lab(clone):
    """The address of a JupyterLab in the clone, for a user without settings of any kind."""
    home = clone.parent / "home"
    settings = home / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    # All cells are drawn, not only those in sight.
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "DBYTE", "IPYTHON"))}
    given |= KERNEL | {"HOME": str(home), "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
                       "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"), "PYTHONPATH": str(clone)}
    options = {"ServerApp.ip": "127.0.0.1", "ServerApp.port": port, "ServerApp.port_retries": 0,
               "IdentityProvider.token": TOKEN, "MappingKernelManager.cull_idle_timeout": 30,
               "MappingKernelManager.cull_interval": 10}
    with (home / "log").open("w") as log:
        server = subprocess.Popen([sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
                                   *(f"--{name}={value}" for name, value in options.items())],
                                  cwd=clone, env=given, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    until = time.monotonic() + SECONDS
    while True:
        try:
            urllib.request.urlopen(f"{address}/api/status?token={TOKEN}", timeout=10).close()
            break
        except (urllib.error.URLError, TimeoutError):
            assert server.poll() is None and time.monotonic() < until, (home / "log").read_text()
            time.sleep(0.2)
    yield address
    os.killpg(server.pid, signal.SIGTERM)  # its kernels, too
    server.wait()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        if not BROWSER and not Path(started.chromium.executable_path).exists():
            pytest.skip(WHY.format("browser"))
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])  # containers have root alone
        yield browser
        browser.close()


@pytest.fixture
def opened(lab, browser, clone, tmp_path):
    """Open a notebook by its name and wait until all of its cells are there; returns the page and the file's cells.

    What was shown at the end is kept as shown.png in the test's temporary folder.
    """
    page = browser.new_page(viewport=SIGHT)
    page.set_default_timeout(1000 * SECONDS)

    def open_notebook(name):
        # jupytext takes the cells from the script, and outputs from the .ipynb: papermill's cell is not shown.
        cells = [cell for cell in read_notebook(clone / "notebooks" / f"{name}.ipynb").cells
                 if INJECTED not in tags(cell)]
        page.goto(f"{lab}/lab/workspaces/{name}/tree/notebooks/{name}.ipynb?token={TOKEN}")
        page.wait_for_function(f"document.querySelectorAll('.jp-Notebook .jp-Cell').length == {len(cells)}")
        return page, cells

    yield open_notebook
    page.set_viewport_size(SIGHT | {"height": TALL})
    page.evaluate("() => document.querySelector('.jp-WindowedPanel-outer').scrollTo(0, 0)")
    page.screenshot(path=tmp_path / "shown.png")
    page.close()


def drawn(page, count):
    """The pictures of the outputs, at least so many, once all of them are drawn."""
    page.wait_for_function(
        f"(found => found.length >= {count} && found.every(each => each.complete && each.naturalWidth > 50))"
        f"([...document.querySelectorAll('{PICTURES}')])")
    return page.query_selector_all(PICTURES)


@pytest.mark.parametrize("name", NAMES)
def test_a_fresh_clones_notebook_shows_what_was_committed(opened, name):
    page, cells = opened(name)
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    pictures = drawn(page, sum("image/png" in output.get("data", {}) for output in outputs))
    tables = sum(output.get("data", {}).get("text/markdown", "").startswith("|") for output in outputs)
    page.wait_for_function(f"document.querySelectorAll('.jp-Notebook .jp-OutputArea table').length >= {tables}")
    assert page.locator(ERRORS).count() == 0 and page.locator(".jp-Dialog").count() == 0
    assert page.locator(".jp-Notebook h1").first.inner_text().startswith(name[:2])
    if name.startswith("07"):
        assert all(picture.evaluate(COLOURS) >= 3 for picture in pictures), "chunks have colours without any trust"


@pytest.mark.parametrize(("name", "result"), [("05_ablation_encoder", "encoder"), ("07_boundary_visualization",
                                                                                   "space_bias")])
def test_run_all_runs_a_notebook_at_smoke(opened, clone, name, result):
    page, cells = opened(name)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()  # what is asked for without a kernel is forgotten
    page.set_default_timeout(1000 * RUN_SECONDS)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.get_by_text("scale    smoke, seed 0").wait_for()  # the committed outputs are those of `small`
    page.wait_for_function("[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]"
                           ".every(each => !each.textContent.includes('*'))")
    assert page.locator(ERRORS).count() == 0, page.locator(ERRORS).first.inner_text()
    prompts = page.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts()
    assert len(prompts) == sum(cell.cell_type == "code" for cell in cells)
    assert all(re.search(r"\[\d+\]", prompt) for prompt in prompts), prompts
    assert drawn(page, 2) and (clone / "results" / "smoke" / f"{result}.csv").is_file()
