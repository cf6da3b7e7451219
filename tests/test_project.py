"""The files around the code agree with one another."""

import re
import runpy
import subprocess
import sys
import tomllib

import pandas as pd
import pytest

from utils import results
from utils.environment import requirements, torch_bound
from utils.settings import PROJECT

PNG = (  # of one pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
README = (PROJECT / "README.md").read_text(encoding="utf-8")


def test_requirements_are_pinned_explained_and_end_in_the_package_itself():
    lines = (PROJECT / "requirements.txt").read_text().splitlines()
    assert lines[-1] == "-e ."
    lines = lines[:-1] + [
        line
        for path in sorted(PROJECT.glob("requirements-*.txt"))
        for line in path.read_text().splitlines()
    ]
    for line in lines:
        if line.startswith("#"):
            continue
        assert re.fullmatch(r"[\w.-]+==[\w.]+ +# .{5,}", line), line


def test_every_file_admits_the_pinned_torch_and_the_same_python():
    low, below = torch_bound()
    pin = requirements()["torch"]
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    environment = (PROJECT / "environment.yml").read_text()
    python = re.search(r"python=([\d.]+)", environment)[1]
    as_numbers = lambda version: [int(n) for n in version.split(".")[:2]]  # noqa: E731
    assert as_numbers(low) <= as_numbers(pin) < as_numbers(below)
    assert as_numbers(python) >= as_numbers(project["requires-python"].removeprefix(">="))
    assert "-r requirements.txt" in environment


def test_readme_and_summary_show_the_reference_results_which_are_of_the_same_weights():
    summary = results.read(results.REFERENCE, "summary")
    assert results.readme_block(summary) in README, "run: make notebooks"
    assert summary == results.collect(results.REFERENCE)
    names = [path.stem for path in sorted(results.REFERENCE.glob("0[2-6]_*.json"))]
    environments = {n: results.read(results.REFERENCE, n)["environment"] for n in names}
    results.check_weights(environments)


def test_reference_results_reach_the_goals():
    s = results.read(results.REFERENCE, "summary")
    assert {e["profile"] for e in s["environments"].values()} == {"full"}
    assert s["data_source"] == "MNIST (torchvision)"
    assert s["float_accuracy"] >= 0.995
    assert abs(s["int8_accuracy"] - s["float_accuracy"]) <= 0.0005
    assert s["int8_bytes"] <= 11.35e6
    timed = results.read(results.REFERENCE, "00_quickstart")["latency"]
    variants = zip(timed["variant"], timed["batch"], timed["always_faster"], strict=True)
    faster = {(variant, batch): always for variant, batch, always in variants}
    assert faster[f"int8_{s['engine']}", 1] and faster[f"int8_{s['engine']}", 64]
    for batch in (1, 64):  # in the benchmark, beyond doubt; against the fastest it depends
        assert s[f"against_eager_low_b{batch}_t1"] > 2


def test_documents_name_what_there_is():
    text = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?![a-z]+:)([^)#]+)(?:#[^)]*)?\)", text):
        assert (PROJECT / target).exists(), target
    for pattern in ("[a-z]*.py", "lab/[a-z]*.py"):
        for path in (PROJECT / "utils").glob(pattern):
            assert f"`{path.stem}`" in text, path.stem
    for path in (PROJECT / "notebooks").glob("*.ipynb"):
        assert f"notebooks/{path.name}" in README
    for target in ("report", "test", "lab", "notebooks", "class"):
        assert f"make {target}" in README


@pytest.mark.parametrize(
    ("name", "page", "problem"),
    [
        ("00_a.html", f'<img alt="a" src="data:image/png;base64,{PNG}">', None),
        ("00_a.html", "<p>words</p>", None),  # no notebook of that name draws
        ("00_a.html", '<img src="data:image/png;base64,AAAAAAAAAAAAAAAA">', "1 of its images"),
        ("00_a.html", '<img src="gone.png">', "1 of its images missing"),
        ("00_a.html", '<link rel="shortcut icon" href="https://example.org/a.ico">', "a.ico"),
        ("00_a.html", None, "00_a.html is missing"),
        ("04_cpu_benchmark.html", "<p>words</p>", "all of its images missing"),
    ],
)
def test_ci_notices_missing_pages_and_images(tmp_path, name, page, problem):
    links = f'<a href="{name}">00</a> <a href="#top">top</a> <a href="https://example.org">x</a>'
    (tmp_path / "index.html").write_text(links)
    if page is not None:
        (tmp_path / name).write_text(page)
    command = [sys.executable, str(PROJECT / ".ci" / "check_pages.py"), str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (int(problem is not None), "")
    assert (problem or "every page and every image is there") in run.stdout


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]], ids=["lint", "format"])
def test_ruff_is_clean(arguments):
    command = [sys.executable, "-m", "ruff", *arguments, "--quiet", "."]
    run = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_new_seed_keeps_the_others_rows_and_refuses_other_test_images(tmp_path):
    others = runpy.run_path(str(PROJECT / "benchmarks" / "seeds.py"))["others"]
    path = tmp_path / "seeds.json"
    assert others(path, 0, 10) == []
    results.save(path, {"table": pd.DataFrame({"seed": [0, 1], "images": 10})})
    assert others(path, 1, 10) == [{"seed": 0, "images": 10}]
    with pytest.raises(SystemExit, match="has other test images"):
        others(path, 1, 20)
