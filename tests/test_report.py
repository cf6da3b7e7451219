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

from utils import data, report, results, settings
from utils.report import Run

make_site = report.site
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


def save(folder, name, *cells, title=None):
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.ipynb"
    made = notebook(*cells, title=title or f"About {name}")
    made.metadata = nbformat.from_dict(report.METADATA)
    nbformat.write(made, path)
    return path


# The pages


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Two made-up notebooks and the reference results as a site, where an older one was."""
    folder = tmp_path_factory.mktemp("site")
    image = {"image/png": {"alt": 'a "dot"'}}
    figure = [new_output("display_data", {"image/png": PNG}, metadata=image)]
    code = [
        new_code_cell("shown = 1", outputs=figure),
        new_code_cell("answer = ...", metadata={"tags": ["exercise"]}),
        new_code_cell("answer = 42", metadata={"tags": ["solution"]}),
    ]
    text = new_markdown_cell(
        "## Sums\n\nInline $r = S (q - Z)$, code `$HOME`.\n\n$$\\sum_i x_i^2$$"
    )
    save(
        folder / "notebooks", "00_first", text, *code, new_markdown_cell("[Next](09_report.ipynb)")
    )
    save(folder / "notebooks", "09_report", code[0], new_markdown_cell("A zebra."))
    (folder / "02_gone.html").write_text("of a notebook that is no more")
    (folder / "playground.html").write_text("<title>draw</title>")
    (folder / ".site").mkdir()  # of a run that was killed
    report.site(folder / "notebooks", results.REFERENCE, FACTS, folder)
    return folder.rename(folder.with_name("copied elsewhere"))


def test_the_site_is_whole_and_loads_nothing_from_a_network(pages):
    check = [sys.executable, settings.PROJECT / ".ci" / "check_pages.py", pages]
    run = subprocess.run(check, capture_output=True, text=True, check=False)
    assert run.stdout == "every page and every image is there\n", run.stderr
    names = {"index.html", "search.html", "00_first.html", "09_report.html", "playground.html"}
    assert {path.name for path in pages.glob("*.html")} == names
    assert not (pages / ".site").exists()


def test_formulas_links_and_alternative_texts_reach_the_page(pages):
    first = (pages / "00_first.html").read_text(encoding="utf-8")
    assert first.count("<math ") == 2 and 'display="block"' in first
    assert "$HOME" in first  # code is not a formula
    assert f'src="data:image/png;base64,{PNG}" alt="a &quot;dot&quot;"' in first
    assert 'href="09_report.html"' in first and ".ipynb" not in first


def test_solutions_are_folded_and_the_code_of_the_report(pages):
    def folded(name):
        html = (pages / f"{name}.html").read_text(encoding="utf-8")
        boxes = re.findall(r"<details.*?</details>", html, re.DOTALL)
        return [re.sub(r"<[^>]*>|\s", "", box) for box in boxes]

    (solution,) = folded("00_first")
    assert "Showasolution" in solution and "answer=42" in solution
    (code,) = folded("09_report")
    assert "shown=1" in code


def settled(browser):
    """Wait until the page's script has chosen a theme and no color changes any more."""
    from selenium.webdriver.support.ui import WebDriverWait

    still = """return document.documentElement.dataset.theme !== "auto" &&
        document.getAnimations().every((animation) => animation.playState !== "running")"""
    WebDriverWait(browser, 60).until(lambda b: b.execute_script(still))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("name", ["index", "00_first"])
def test_the_site_in_a_browser(pages, browser, name, width, scheme):
    axe = pytest.importorskip("axe_core_python.selenium")
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get((pages / f"{name}.html").as_uri())
    settled(browser)
    theme, wide, broken, formulas = browser.execute_script(
        """const page = document.documentElement;
        return [page.dataset.theme, page.scrollWidth > page.clientWidth,
        [...document.images].filter((image) => !image.naturalWidth).length,
        [...document.querySelectorAll("math")].map((math) => math.clientHeight)]"""
    )
    assert (theme, wide, broken) == (scheme, False, 0)
    assert len(formulas) == (2 if name == "00_first" else 0) and all(formulas)
    assert [(v["id"], v["nodes"]) for v in axe.Axe().run(browser)["violations"]] == []
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_the_search_finds_a_page_from_disk(pages, browser):
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(f"{(pages / 'search.html').as_uri()}?q=zebra")
    found = WebDriverWait(browser, 60).until(
        lambda b: b.find_elements("css selector", "#search-results li a")
    )
    assert "About 09_report" in found[0].text
    assert found[0].get_attribute("href").split("?")[0].endswith("/09_report.html")
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


# The start page


def start(kept, folder, failed=None, **facts):
    notebooks = {"00_a": notebook(title="First & best?"), "01_b": notebook(title="Second")}
    notebooks["01_b"].cells[0].source += " What does\nit cost? And that?"
    shown = {"facts": FACTS | facts, "failed": failed, "played": False}
    return report.start_page(notebooks, kept, folder, **shown)


def test_the_start_page_lists_notebooks_by_their_questions(tmp_path):
    results.save(tmp_path / "run.json", {"00_a": 12.4})
    text = start(tmp_path, tmp_path, Run("01_b", 3, "ValueError: <oops>"))
    assert "- [](/00_a.ipynb) (12 s)\n- [](/01_b.ipynb)<br> What does it cost?\n" in text
    assert "Failed: 01_b" in text and "ValueError: &lt;oops&gt;" in text
    assert "when these notebooks have run: How does float32 become int8?" in text
    assert "some &lt;digits&gt;" in text and "| instruction sets | avx2, x |" in text
    assert "Draw a digit" not in text and "headline.png" not in text


def test_the_start_page_answers_from_the_results(course, records, tmp_path):
    for name, record in records.items():
        results.write(course, name, record)
    text = start(course.results_dir, tmp_path)
    assert "changes the accuracy of ResNet-18 by -0.50 points" in text
    assert "44.80 MB" in text and (tmp_path / "headline.png").exists()
    summary = results.read(course.results_dir, "summary")
    small = {"name": "x", "float_bytes": 44_800_000, "bytes": 432_000, "times": 103.7}
    summary["smallest"] = small | {"difference": 0.0, "mcnemar_p": 1.0}
    columns = ("situation", "choice", "ms", "fastest_float", "ratio")
    summary["shipped"] = dict(zip(columns, (["a"], ["b"], [1.0], ["c"], [4.5]), strict=True))
    summary["shipped_mb"] = [44.7, 4.4]
    said = report.answer(summary)
    assert "is 4.50 times as fast as the fastest float32" in said and "has 0.43 MB" in said
    assert "](03_fusion_and_calibration.ipynb)" in text


@pytest.mark.parametrize(
    ("source", "profile", "noticed"),
    [(data.DIGITS, "full", True), (data.DIGITS, "quick", False), ("MNIST", "full", False)],
)
def test_a_fallback_stands_at_the_top(tmp_path, source, profile, noticed):
    text = start(tmp_path, tmp_path, data_source=source, profile=profile)
    assert ("embedded digits, not from MNIST" in text.split("## Notebooks")[0]) == noticed


# Executing


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
    monkeypatch.setattr(report, "_write_playground", lambda *_: None)  # tests/test_playground.py
    monkeypatch.setattr(report, "site", lambda *_: None)  # takes seconds; see above
    return tmp_path


def test_a_failing_notebook_ends_the_run_and_what_was_made_stays(house, capsys, monkeypatch):
    monkeypatch.setattr(report, "site", make_site)
    folder = house / "notebooks"
    save(folder, "01_good", new_code_cell("print('fine', 6 * 7)"))
    bad = (new_code_cell("print('so far')"), new_code_cell("raise ValueError('the reason')"))
    save(folder, "02_bad", *bad, new_code_cell("print('never')"))
    save(folder, "04_never", new_code_cell("1"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    output = house / "report"

    assert report.make(output, in_place=False) == 1
    out = capsys.readouterr().out
    assert "98.76%" in out
    assert re.search(r"1/3\W+01_good", out)
    assert re.search(r"2/3\W+02_bad\W+FAILED", out)
    assert "ValueError: the reason" in out
    assert "\x1b[" not in out
    assert "02_bad failed; what was made so far is in report/index.html" in out
    names = {"index.html", "search.html", "01_good.html", "02_bad.html"}
    assert {path.name for path in output.glob("*.html")} == names
    assert "fine 42" in (output / "01_good.html").read_text(encoding="utf-8")
    bad_page = (output / "02_bad.html").read_text(encoding="utf-8")
    assert "so far" in bad_page
    assert "the reason" in bad_page
    index = (output / "index.html").read_text(encoding="utf-8")
    assert "Failed: 02_bad" in index
    assert "ValueError: the reason" in index
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_execute_runs_in_the_notebooks_folder_and_hides_the_machine(tmp_path):
    (tmp_path / "beside.txt").write_text("found")
    path = save(tmp_path, "00_a", new_code_cell("print(open('beside.txt').read())"))
    executed, run = report.execute(path)
    assert run.error is None
    assert run.name == "00_a"
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
        return executed, Run(path.stem, 1.0)

    monkeypatch.setattr(report, "execute", execute)
    return ran


@pytest.mark.parametrize("chosen", ["", "auto", None])
def test_in_place_keeps_notebooks_and_updates_the_readme(
    house, course, pretend_to_execute, records, monkeypatch, chosen
):
    if chosen is not None:
        monkeypatch.setenv("COURSE_DATA", chosen)
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


def test_damaged_data_end_the_report_in_words(house, pretend_to_execute, monkeypatch, capsys):
    def load(_):
        raise report.data.DataError("train.gz is damaged: delete it and run again.")

    save(house / "notebooks", "00_a", new_code_cell("1"))
    monkeypatch.setattr(report.data, "load", load)
    assert report.make(house / "report", in_place=False) == 1
    assert "train.gz is damaged" in capsys.readouterr().out


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
    assert Image.open(path).size == (700, 560)
    report.save_headline_figure(course.results_dir)
    assert path.read_bytes() == first
    # Several processes know more than the one of the verdicts.
    known = records["04_cpu_benchmark"]
    known["headline"] = known["verdicts"].assign(int8_ms=0.75)
    results.write(course, "04_cpu_benchmark", known)
    assert "0.75" in report.save_headline_figure(course.results_dir)


def test_a_report_touches_neither_notebooks_nor_reference(house, pretend_to_execute, capsys):
    path = save(house / "notebooks", "00_a", new_code_cell("1"))
    before = path.read_bytes()
    assert report.make(house / "report", in_place=False) == 0
    assert path.read_bytes() == before
    assert not (house / "results").exists()
    assert os.environ["COURSE_RESULTS"] == str(house / "report" / "results")
    assert "report: report/index.html" in capsys.readouterr().out


def test_notebooks_run_in_order_and_can_be_chosen(house, pretend_to_execute, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    for name in ("09_d", "00_a", "01_e", "02_b", "03_c", "draft"):
        save(house / "notebooks", name, new_code_cell("1"))
    report.make(house / "report", in_place=False)
    assert pretend_to_execute == ["03_c", "01_e", "00_a", "02_b", "09_d"]
    report.make(house / "report", in_place=False, only=["02_b"])
    assert pretend_to_execute[5:] == ["02_b"]


RENDEZVOUS = """
import os, time
from pathlib import Path
Path("{own}").touch()
end = time.monotonic() + 60
while not Path("{other}").exists() and time.monotonic() < end:
    time.sleep(0.1)
assert Path("{other}").exists()
print(os.environ.get("OMP_NUM_THREADS"))
"""


def test_notebooks_share_the_cores_unless_they_measure_time(house, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for own, other in (("01_a", "03_b"), ("03_b", "01_a")):
        cell = RENDEZVOUS.format(own=own, other=other)
        save(house / "notebooks", own, new_code_cell(cell))
    alone = 'import os; print(os.environ.get("OMP_NUM_THREADS"))'
    save(house / "notebooks", "00_alone", new_code_cell(alone))
    assert report.make(house / "report", in_place=False) == 0
    said = {
        path.stem: nbformat.read(path, 4).cells[1].outputs[0].text.strip()
        for path in (house / "report" / "notebooks").glob("*.ipynb")
    }
    assert said == {"00_alone": "None", "01_a": "1", "03_b": "1"}


def test_a_kernel_that_dies_is_told_in_words(tmp_path):
    path = save(tmp_path, "01_a", new_code_cell("import os; os.kill(os.getpid(), 9)"))
    _, run = report.execute(path)
    assert "died" in run.error and "memory" in run.error


def test_a_kernel_that_does_not_start_is_told_in_words(tmp_path, monkeypatch):
    (tmp_path / "ipykernel_launcher.py").write_text("raise SystemExit(1)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    _, run = report.execute(save(tmp_path, "01_a", new_code_cell("1")))
    assert "died" in run.error


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
report._write_playground = lambda *_: None
report.make(house / "report", in_place=False)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_report_leaves_whole_files_and_starts_again(house, course):
    folder, output = house / "notebooks", house / "report"
    save(folder, "01_good", new_code_cell("print('fine')"))
    kill = "import os, signal; os.kill(os.getppid(), signal.SIGKILL)"
    save(folder, "02_deadly", new_code_cell(kill))
    environ = os.environ | {"COURSE_HOME": str(house), "COURSE_DATA": "digits"}
    output.mkdir()
    (output / "index.html").write_text("of an earlier run")
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(house)], env=environ, capture_output=True, check=False
    )
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()
    assert [path.name for path in output.glob("notebooks/*")] == ["01_good.ipynb"]
    assert (output / "index.html").read_text() == "of an earlier run"
    assert results.read(output / "results", "run").keys() == {"training", "01_good"}
    halves = ("notebooks/02_deadly.ipynb.99999999.tmp", "results/run.json.99999999.tmp")
    for half in (output / name for name in halves):
        half.write_text("half a pa")  # as if killed while writing
    save(folder, "02_deadly", new_code_cell("print('harmless')"))
    assert report.make(output, in_place=False) == 0
    assert (output / "notebooks" / "02_deadly.ipynb").exists()
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


def test_only_one_run_refreshes_the_committed_files(
    house, course, pretend_to_execute, monkeypatch, capsys
):
    path = save(house / "notebooks", "00_a", new_code_cell("1"))
    before = path.read_bytes()
    folder = house / "artifacts"  # of the project, wherever the data and models are
    folder.mkdir()
    monkeypatch.setattr(report.settings, "load", lambda: replace(course, home=house / "away"))
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
    report.make(house / "report", in_place=False, only=["00_a"])
    assert all((kept.results_dir / f"{name}.json").exists() for name in records)
    report.make(house / "report", in_place=False)
    assert not any((kept.results_dir / f"{name}.json").exists() for name in records)
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
    page = start(results.REFERENCE, house)
    assert "There is no table of results: the float32 weights differ" in page


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
    (house / "mine").mkdir()
    (house / "mine" / "page.html").touch()  # a report would delete it
    monkeypatch.setattr(sys, "argv", ["report", "--output", str(house / "mine")])
    with pytest.raises(SystemExit):
        report.main()
    assert "a folder with files of your own" in capsys.readouterr().err
    (house / "mine" / ".report.lock").touch()  # of an earlier report
    assert report.main() == 3
