"""JupyterLab in a browser: notebooks run to their end, and a slider draws its figure again."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest

from utils import data, settings, training
from utils.lab import playground
from utils.report import NOTEBOOKS

QUICKSTART, FUSION = "00_quickstart.ipynb", "03_fusion_and_calibration.ipynb"
SECONDS = 300  # for a slow core that others use, too
FIND = """const app = window.jupyterapp;
const panel = [...app.shell.widgets("main")].find((w) => w.context?.path === arguments[0]);
"""
OPEN = """const done = arguments[1];
window.jupyterapp.commands.execute("docmanager:open", { path: arguments[0] })
  .then((w) => Promise.all([w.context.ready, w.sessionContext.ready]))
  .then(() => done(""), (error) => done(String(error)));"""
RUN_ALL = f"{FIND} app.shell.activateById(panel.id); app.commands.execute('notebook:run-all-cells')"
COUNTS = f"""{FIND} if (panel.sessionContext.session?.kernel?.status !== "idle") return null;
return [...panel.content.model.cells].filter((c) => c.type === "code").map((c) => c.executionCount)
"""
SHOW = f"""{FIND} const all = panel.content.widgets;
const at = all.findIndex((c) => c.model.sharedModel.source.includes(arguments[1]));
panel.content.activeCellIndex = at;
panel.content.scrollToItem(at, "center");"""
# In one step: an element that is held may be replaced before it is asked.
READ = """const found = document.querySelectorAll(`.jp-mod-active ${arguments[0]}`);
return [...found].at(-1)?.[arguments[1]] ?? "";"""
SAVE = f"""const done = arguments[1]; {FIND}
panel.context.save().then(() => done(""), (error) => done(String(error)));"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Serve a copy of the notebooks; return the browser, JupyterLab's address and the folder."""
    try:
        browser = playground.chromium()
    except (ImportError, FileNotFoundError) as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("lab")
    (folder / "notebooks").mkdir()
    for name in (QUICKSTART, FUSION):
        notebook = nbformat.read(NOTEBOOKS / name, 4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.update(outputs=[], execution_count=None)
        nbformat.write(notebook, folder / "notebooks" / name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token, command = secrets.token_hex(8), [sys.executable, "-m", "jupyterlab", "--no-browser"]
    command += [f"--ServerApp.port={port}", f"--IdentityProvider.token={token}", "--allow-root"]
    command += ["--LabApp.expose_app_in_browser=True", f"--notebook-dir={folder / 'notebooks'}"]
    quick = settings.load(os.environ | {"COURSE_PROFILE": "quick"})
    digits = data.load(quick, announce=False)
    training.load_or_train(quick, digits)  # once for all tests, not once more in the browser
    trained = training.checkpoint_path(quick, training.recipe_for(quick, digits))
    (folder / "artifacts" / "quick").mkdir(parents=True)
    shutil.copy(trained, folder / "artifacts" / "quick")
    environ = os.environ | {"COURSE_HOME": str(folder), "COURSE_PROFILE": "quick"}
    environ |= {"COURSE_WIDGETS": "auto", "HOME": str(folder)}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, env=environ, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}/lab?token={token}"
    try:
        wait(lambda: answers(address), lambda: (folder / "log").read_text()[-2000:])
        browser.set_script_timeout(SECONDS)
        browser.get(address)
        wait(lambda: browser.execute_script("return !!window.jupyterapp?.shell"))
        browser.execute_async_script("window.jupyterapp.restored.then(arguments[0])")
        yield browser, folder / "notebooks"
    finally:
        browser.quit()
        server.terminate()
        server.wait(60)


def answers(address) -> bool:
    try:
        return urllib.request.urlopen(address, timeout=10).status == 200
    except OSError:
        return False


def wait(ready, said=str, seconds=SECONDS):
    """Return what ``ready`` returns once that is true."""
    end = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < end, said()
        time.sleep(0.2)
    return found


def run_all(browser, folder, name):
    """Open a notebook, run it to its end, save it; return the saved one."""
    assert browser.execute_async_script(OPEN, name) == ""
    browser.execute_script(RUN_ALL, name)

    def ended():
        counts = browser.execute_script(COUNTS, name)
        return counts and sorted(counts, key=str) == sorted(range(1, len(counts) + 1), key=str)

    wait(ended, lambda: str(browser.execute_script(COUNTS, name)))
    assert browser.execute_async_script(SAVE, name) == ""
    notebook = nbformat.read(folder / name, 4)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            tagged = "raises-exception" in cell.metadata.get("tags", [])
            assert output.output_type != "error" or tagged, output
    return notebook


def test_the_quickstart_runs_to_its_end(lab):
    assert "profile: quick" in str(run_all(*lab, QUICKSTART))


@pytest.fixture(scope="module")
def fusion(lab):
    """Notebook 03 after running it in the browser, and what finds and reads elements of a cell."""
    notebook, browser = run_all(*lab, FUSION), lab[0]

    def find(source, css):
        browser.execute_script(SHOW, FUSION, source)
        return wait(lambda: browser.find_elements("css selector", f".jp-mod-active {css}"))

    def read(source, css, what):
        find(source, css)
        return browser.execute_script(READ, css, what)

    return notebook, find, read


def test_a_slider_draws_its_figure_again(fusion):
    notebook, find, read = fusion
    call = "quantization_figures.number_line"
    (cell,) = [cell for cell in notebook.cells if call in cell.source]
    assert "application/vnd.jupyter.widget-view+json" in str(cell.outputs)

    def picture():
        return read(call, ".jupyter-widgets img", "src")

    before = wait(picture)
    find(call, ".widget-hslider .noUi-handle")[-1].send_keys("\ue012")  # left arrow: one bit less
    after = wait(lambda: (new := picture()) != before and new)
    assert before.startswith("data:image/png") and after.startswith("data:image/png")


def test_the_playground_classifies_a_digit_in_its_cell(fusion):
    *_, read = fusion
    wait(lambda: read("playground.widget", ".answer", "innerText").isdecimal())
