import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import filelock
import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image
from torch import nn

from utils import data, report, results
from utils.report import Run

PNG = (  # of one pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
FACTS = {"data_source": "some <digits>", "profile": "full", "instruction_sets": ["avx2", "x"]}


def notebook(*cells, title="A title"):
    return new_notebook(cells=[new_markdown_cell(f"# {title}\n\nText."), *cells])


# One notebook


def test_title_of():
    assert report.title_of(notebook(title="Hello, world ")) == "Hello, world"
    late = new_notebook(cells=[new_code_cell("# no"), *notebook().cells])
    assert report.title_of(late) == "A title"


@pytest.mark.parametrize("cells", [[], [new_markdown_cell("## small")], [new_code_cell("# code")]])
def test_a_notebook_needs_a_title(cells):
    with pytest.raises(ValueError, match="has no title"):
        report.title_of(new_notebook(cells=cells))


@pytest.fixture(scope="module")
def page():
    picture = new_output(
        "display_data", {"image/png": PNG}, metadata={"image/png": {"alt": "a dot"}}
    )
    widgets = {"application/vnd.jupyter.widget-view+json": {"model_id": "0"}, "text/plain": "w"}
    cells = [
        new_markdown_cell("Inline $r = S (q - Z)$.\n\n$$\\sum_i x_i^2$$\n\nCode: `$HOME`."),
        new_markdown_cell("See [next](01_next.ipynb) and [part](01_next.ipynb#a-part)."),
        new_markdown_cell("```mermaid\ngraph TD\n```"),
        new_code_cell("hidden = 1", outputs=[picture, new_output("display_data", widgets)]),
    ]
    return lambda **keywords: report.to_html(notebook(*cells), **keywords)


def test_the_page_loads_nothing(page):
    html = page()
    assert not re.findall(r"<(?:script|img|iframe|source)[^>]*\ssrc=[\"'](?!data:)", html)
    assert not re.findall(r"<link[^>]*\shref=", html)
    assert not re.findall(r"@import|url\([\"']?https?:", html)
    assert not re.findall(r"import\s[^;]*https?:", html)
    assert not re.findall(r"(?:src|href)=[\"']https?:[^\"']*\.(?:js|css)", html)


def test_formulas_become_mathml(page):
    html = page()
    assert html.count("<math ") == 2
    assert 'display="inline"' in html
    assert 'display="block"' in html
    assert "$HOME" in html  # code is not a formula


def test_links_lead_to_pages(page):
    html = page()
    assert 'href="01_next.html"' in html
    assert 'href="01_next.html#a-part"' in html
    assert ".ipynb" not in html


def test_figures_are_embedded_with_alt_text(page):
    html = page()
    assert f"data:image/png;base64,{PNG}" in html.replace("\n", "")
    assert 'alt="a dot"' in html


def test_code_can_be_hidden(page):
    def text(html):
        return re.sub(r"<[^>]*>", "", html)

    assert "hidden = 1" in text(page())
    assert "hidden = 1" not in text(page(hide_code=True))
    assert "a dot" in page(hide_code=True)


# The start page


def test_index_page(tmp_path):
    runs = [Run("00_a", "First & best?", 12.4), Run("01_b", "Second?", 3, "ValueError: <oops>")]
    html = report.index_page(runs, FACTS, tmp_path)
    assert '<a href="00_a.html">First &amp; best?</a>' in html  # by question, not by file
    assert "12 s" in html
    assert html.count(">ok<") == html.count(">FAILED<") == 1
    assert "Failed: Second?" in html
    assert "ValueError: &lt;oops&gt;" in html
    assert "when these notebooks have run: How does float32 become int8?" in html
    assert "some &lt;digits&gt;" in html
    assert "avx2, x" in html
    assert not re.findall(r"(?:src|href)=[\"']https?:|[{}]%|{{", html)


@pytest.mark.parametrize(
    ("source", "profile", "noticed"),
    [(data.DIGITS, "full", True), (data.DIGITS, "quick", False), ("MNIST", "full", False)],
)
def test_a_fallback_stands_at_the_top(tmp_path, source, profile, noticed):
    html = report.index_page([], {"data_source": source, "profile": profile}, tmp_path)
    assert ("embedded digits, not from MNIST" in html.split("<h2>Results")[0]) == noticed


# Executing


def save(folder, name, *cells):
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.ipynb"
    nbformat.write(notebook(*cells, title=f"About {name}"), path)
    return path


@pytest.fixture
def house(course, tmp_path, monkeypatch, digits):
    """A project in a temporary folder, with a float model that needs no training."""
    for name in ("COURSE_RESULTS", "COURSE_DATA", "TQDM_DISABLE"):  # make() sets them
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    monkeypatch.setattr(report, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(report, "PROJECT", tmp_path)
    monkeypatch.setattr(results, "REFERENCE", tmp_path / "results")
    monkeypatch.setattr(report.settings, "load", lambda: course)
    monkeypatch.setattr(report.environment, "check", lambda _: [("OK", "all", "fine")])
    mnist = replace(digits, source="MNIST (torchvision)")
    monkeypatch.setattr(report.data, "load", lambda _: mnist)
    history = pd.DataFrame({"test_accuracy": [0.5, 0.9876]})
    monkeypatch.setattr(report.training, "load_or_train", lambda *_: (nn.Linear(1, 1), history))
    return tmp_path


def test_a_failing_notebook_ends_the_run_and_what_was_made_stays(house, capsys):
    folder = house / "notebooks"
    save(folder, "00_good", new_code_cell("print('fine', 6 * 7)"))
    bad = (new_code_cell("print('so far')"), new_code_cell("raise ValueError('the reason')"))
    save(folder, "01_bad", *bad, new_code_cell("print('never')"))
    save(folder, "02_never", new_code_cell("1"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    output = house / "report"

    assert report.make(output, in_place=False) == 1
    out = capsys.readouterr().out
    assert "98.76%" in out
    assert re.search(r"1/3\W+00_good", out)
    assert re.search(r"2/3\W+01_bad\W+FAILED", out)
    assert "ValueError: the reason" in out
    assert "\x1b[" not in out
    assert "01_bad failed; what was made so far is in report/index.html" in out
    assert {p.name for p in output.glob("*.html")} == {"00_good.html", "01_bad.html", "index.html"}
    assert "fine 42" in (output / "00_good.html").read_text(encoding="utf-8")
    bad_page = (output / "01_bad.html").read_text(encoding="utf-8")
    assert "so far" in bad_page
    assert "the reason" in bad_page
    index = (output / "index.html").read_text(encoding="utf-8")
    assert "Failed: About 01_bad" in index
    assert "ValueError: the reason" in index
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_execute_runs_in_the_notebooks_folder_and_hides_the_machine(tmp_path):
    (tmp_path / "beside.txt").write_text("found")
    path = save(tmp_path, "00_a", new_code_cell("print(open('beside.txt').read())"))
    executed, run = report.execute(path)
    assert run.error is None
    assert (run.name, run.title) == ("00_a", "About 00_a")
    assert run.seconds > 0
    assert executed.cells[1].outputs[0].text == "found\n"
    assert executed.cells[1].execution_count == 1
    assert executed.metadata.language_info == {"name": "python"}
    assert "execution" not in executed.cells[1].metadata
    nbformat.validate(executed)


@pytest.fixture
def pretend_to_execute(monkeypatch):
    """Instead of a kernel: note which notebooks ran, and mark the cells."""
    ran = []

    def execute(path, *_):
        ran.append(path.stem)
        executed = nbformat.read(path, as_version=4)
        executed.cells[1].execution_count = 1
        return executed, Run(path.stem, report.title_of(executed), 1.0)

    monkeypatch.setattr(report, "execute", execute)
    return ran


def test_in_place_keeps_notebooks_and_updates_the_readme(
    house, course, pretend_to_execute, records
):
    path = save(house / "notebooks", "00_a", new_code_cell("1"))
    (house / "README.md").write_text(f"before\n{results.START}\n{results.END}\nafter\n")
    for name, record in records.items():
        results.write(replace(course, results_dir=results.REFERENCE), name, record)
    assert report.make(house / "report", in_place=True) == 0
    assert nbformat.read(path, as_version=4).cells[1].execution_count == 1
    assert "44.80 MB" in (house / "README.md").read_text()
    assert (results.REFERENCE / "headline.png").exists()
    assert os.environ["COURSE_RESULTS"] == str(results.REFERENCE)
    assert os.environ["COURSE_DATA"] == "mnist"  # a reference run must not fall back


def test_after_a_fallback_the_notebooks_do_not_ask_the_network_again(
    house, pretend_to_execute, monkeypatch, digits
):
    save(house / "notebooks", "00_a", new_code_cell("1"))
    monkeypatch.setattr(report.data, "load", lambda _: digits)
    assert report.make(house / "report", in_place=False) == 0
    assert os.environ["COURSE_DATA"] == "digits"


@pytest.mark.parametrize(("name", "models"), [("00_a", 1), (report.SECOND, 2)])
def test_models_are_trained_before_the_notebooks_that_need_them(
    house, pretend_to_execute, monkeypatch, digits, name, models
):
    trained = []
    history = pd.DataFrame({"test_accuracy": [0.9]})

    def load_or_train(current, dataset):
        assert not pretend_to_execute
        trained.append((current.data, dataset.name))
        return nn.Linear(1, 1), history

    save(house / "notebooks", name, new_code_cell("1"))
    monkeypatch.setattr(report.data, "load", lambda _, name="mnist": replace(digits, name=name))
    monkeypatch.setattr(report.training, "load_or_train", load_or_train)
    assert report.make(house / "report", in_place=False) == 0
    # The digits are a fallback: the second dataset does not ask the network either.
    assert trained == [("digits", "mnist"), ("digits", "fashion")][:models]


def test_the_readmes_figure_is_the_same_every_time(course, records):
    for name, record in records.items():
        results.write(course, name, record)
    report.save_headline_figure(course.results_dir)
    path = course.results_dir / "headline.png"
    first = path.read_bytes()
    assert Image.open(path).size == (1000, 320)
    report.save_headline_figure(course.results_dir)
    assert path.read_bytes() == first


def test_a_report_touches_neither_notebooks_nor_reference(house, pretend_to_execute, capsys):
    path = save(house / "notebooks", "00_a", new_code_cell("1"))
    before = path.read_bytes()
    assert report.make(house / "report", in_place=False) == 0
    assert path.read_bytes() == before
    assert not (house / "results").exists()
    assert os.environ["COURSE_RESULTS"] == str(house / "report" / "results")
    assert "report: report/index.html" in capsys.readouterr().out
    index = (house / "report" / "index.html").read_text(encoding="utf-8")
    assert "appears when these notebooks have run" in index


def test_notebooks_run_in_order_and_can_be_chosen(house, pretend_to_execute):
    for name in ("10_c", "00_a", "02_b", "draft"):
        save(house / "notebooks", name, new_code_cell("1"))
    report.make(house / "report", in_place=False)
    assert pretend_to_execute == ["00_a", "02_b", "10_c"]
    report.make(house / "report", in_place=False, only=["02_b"])
    assert pretend_to_execute[3:] == ["02_b"]


def test_nothing_runs_in_an_unfit_environment(house, pretend_to_execute, monkeypatch, capsys):
    rows = [("OK", "Python", "fine"), ("WARN", "x", "y"), ("FAIL", "free disk", "0.1 GB")]
    monkeypatch.setattr(report.environment, "check", lambda _: rows)
    save(house / "notebooks", "00_a", new_code_cell("1"))
    assert report.make(house / "report", in_place=False) == 1
    assert capsys.readouterr().out == "[FAIL] free disk: 0.1 GB\n"
    assert not pretend_to_execute


# Faults


KILLED = """
import sys
from pathlib import Path
import pandas as pd
from torch import nn
from utils import data, report, results
house = Path(sys.argv[1])
report.NOTEBOOKS = house / "notebooks"
report.environment.check = lambda _: []
trained = pd.DataFrame({"test_accuracy": [0.9]})
report.training.load_or_train = lambda *_: (nn.Linear(1, 1), trained)
report.make(house / "report", in_place=False)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_report_leaves_whole_files_and_starts_again(house, course):
    folder, output = house / "notebooks", house / "report"
    save(folder, "00_good", new_code_cell("print('fine')"))
    kill = "import os, signal; os.kill(os.getppid(), signal.SIGKILL)"
    save(folder, "01_deadly", new_code_cell(kill))
    environ = os.environ | {"COURSE_HOME": str(house), "COURSE_DATA": "digits"}
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(house)], env=environ, capture_output=True, check=False
    )
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()
    index = (output / "index.html").read_text(encoding="utf-8")
    assert "00_good" in index and "01_deadly" not in index and index.endswith("</html>\n")
    assert results.read(output / "results", "run").keys() == {"training", "00_good"}
    for half in (output / "01_deadly.html.123.tmp", output / "results" / "run.json.123.tmp"):
        half.write_text("half a pa")  # as if killed while writing
    save(folder, "01_deadly", new_code_cell("print('harmless')"))
    assert report.make(output, in_place=False) == 0
    assert "01_deadly" in (output / "index.html").read_text(encoding="utf-8")
    assert not list(output.rglob("*.tmp"))


def test_two_reports_at_once_do_not_mix(house, pretend_to_execute, capsys):
    save(house / "notebooks", "00_a", new_code_cell("1"))
    output = house / "report"
    output.mkdir()
    with filelock.FileLock(output / ".report.lock"):
        assert report.make(output, in_place=False) == 1
        assert capsys.readouterr().out == (
            "another report is being made in report/: wait, or set --output\n"
        )
        assert report.make(house / "elsewhere", in_place=False) == 0
    assert report.make(output, in_place=False) == 0


def test_only_one_run_refreshes_the_committed_files(house, course, pretend_to_execute, capsys):
    path = save(house / "notebooks", "00_a", new_code_cell("1"))
    before = path.read_bytes()
    folder = course.home / "artifacts"
    folder.mkdir()
    with filelock.FileLock(folder / ".report.lock"):
        assert report.make(house / "elsewhere", in_place=True) == 1
    assert "another report is being made in artifacts/" in capsys.readouterr().out
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_written_to_is_told_in_one_line(house, pretend_to_execute, capsys):
    save(house / "notebooks", "00_a", new_code_cell("1"))
    (house / "a_file").write_text("")
    assert report.make(house / "a_file" / "report", in_place=False) == 1
    assert capsys.readouterr().out == "cannot write to report/ (Not a directory): set --output\n"
    assert not pretend_to_execute


def test_what_an_earlier_run_measured_is_not_shown_as_this_ones(
    house, course, pretend_to_execute, records
):
    for name in ("00_a", *records):
        save(house / "notebooks", name, new_code_cell("1"))
    kept = replace(course, results_dir=house / "report" / "results")
    for name, record in [*records.items(), ("mine", {"a": 1})]:
        results.write(kept, name, record)
    index = house / "report" / "index.html"
    report.make(house / "report", in_place=False, only=["00_a"])
    assert "44.80 MB" in index.read_text(encoding="utf-8")
    report.make(house / "report", in_place=False)
    assert "44.80 MB" not in index.read_text(encoding="utf-8")
    assert results.read(kept.results_dir, "mine") == {"a": 1}  # not ours to remove


def test_neither_page_nor_readme_compares_different_weights(
    house, course, pretend_to_execute, records, capsys
):
    save(house / "notebooks", "00_a", new_code_cell("1"))
    records["04_cpu_benchmark"]["environment"]["weights"] = {"float32": "other"}
    for name, record in records.items():
        results.write(replace(course, results_dir=results.REFERENCE), name, record)
    readme = house / "README.md"
    readme.write_text(f"{results.START}\n{results.END}")
    assert report.make(house / "report", in_place=True) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("the float32 weights differ")
    assert readme.read_text() == f"{results.START}\n{results.END}"
    index = (house / "report" / "index.html").read_text(encoding="utf-8")
    assert "There is no table of results: the float32 weights differ" in index


def test_the_command_line(house, monkeypatch, capsys):
    save(house / "notebooks", "00_a")
    calls = []
    monkeypatch.setattr(report, "make", lambda *a, **k: calls.append((a, k)) or 3)
    arguments = ["report", "--output", str(house / "o"), "--in-place", "--only", "00_a"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert report.main() == 3
    assert calls == [((house / "o",), {"in_place": True, "only": ["00_a"]})]
    monkeypatch.setattr(sys, "argv", ["report", "--only", "99_z"])
    with pytest.raises(SystemExit):
        report.main()
    assert "invalid choice: '99_z'" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["report", "--output", str(house)])
    with pytest.raises(SystemExit):
        report.main()
    assert "--output must not be the project" in capsys.readouterr().err
