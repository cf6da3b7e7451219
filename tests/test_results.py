import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from utils import results
from utils.results import END, START, ResultsError


@pytest.fixture
def summary(course, records):
    for name, record in records.items():
        results.write(course, name, record)
    return results.read(course.results_dir, "summary")


def test_what_is_written_can_be_read(course, records):
    record = {
        "tensor": torch.tensor([1, 2]),
        "numpy": np.float64(0.5),
        "counts": np.int64(3),
        "table": pd.DataFrame({"a": [1.5, 2.5], "b": ["x", "y"]}),
        "comparison": records["03_fusion_and_calibration"]["comparison"],
        "nested": {1: [None, True, (1, "two")]},
    }
    path = results.write(course, "05_example", record)
    assert path == course.results_dir / "05_example.json"
    found = results.read(course.results_dir, "05_example")
    assert found["tensor"] == [1, 2]
    assert (found["numpy"], found["counts"]) == (0.5, 3)
    assert found["table"] == {"a": [1.5, 2.5], "b": ["x", "y"]}
    assert found["comparison"]["a_only"] == 7
    assert found["nested"] == {"1": [None, True, [1, "two"]]}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_what_json_cannot_hold_is_refused_and_named(course, number):
    with pytest.raises(ValueError, match=r"x\.table\.ms\[1\] is -?(nan|inf)"):
        results.write(course, "x", {"table": {"ms": [1.0, number]}})
    assert not course.results_dir.exists()


@pytest.mark.parametrize("record", [{"a": math.nan}, {"a": object()}])
def test_a_refused_record_leaves_the_old_file(course, record):
    path = results.write(course, "x", {"a": 1})
    with pytest.raises((ValueError, TypeError)):
        results.write(course, "x", record)
    assert results.read(course.results_dir, "x") == {"a": 1}
    assert list(course.results_dir.iterdir()) == [path]


def test_the_summary_appears_when_both_notebooks_have_run(course, records):
    first, second = records
    results.write(course, second, records[second])
    assert not (course.results_dir / "summary.json").exists()
    results.write(course, first, records[first])
    assert (course.results_dir / "summary.json").exists()


def test_the_summary_is_flat_and_complete(summary, records):
    assert summary == {
        "data_source": "some digits",
        "engine": "fbgemm",
        "test_images": 1000,
        "float_accuracy": 0.99,
        "int8_accuracy": 0.985,
        "float_only_correct": 7,
        "int8_only_correct": 2,
        "mcnemar_p": 0.18,
        "difference_low": -0.011,
        "difference_high": 0.001,
        "float_bytes": 44_800_000,
        "int8_bytes": 11_200_000,
        "latency_ms_float_eager_b1_t1": 5.0,
        "latency_ms_float_openvino_b1_t1": 0.4,
        "latency_ms_int8_fbgemm_b1_t1": 0.5,
        "latency_ms_float_eager_b64_t1": 30.0,
        "latency_ms_float_openvino_b64_t1": 20.0,
        "latency_ms_int8_fbgemm_b64_t1": 10.0,
        "fastest_int8_b1_t1": "int8_fbgemm",
        "fastest_float_b1_t1": "float_openvino",
        "int8_ms_b1_t1": 0.5,
        "eager_ms_b1_t1": 5.0,
        "fastest_float_ms_b1_t1": 0.4,
        "against_eager_b1_t1": 10.0,
        "against_eager_low_b1_t1": 9.0,
        "against_eager_high_b1_t1": 11.0,
        "against_fastest_b1_t1": 0.8,
        "against_fastest_low_b1_t1": 0.7,
        "against_fastest_high_b1_t1": 0.9,
        "fastest_int8_b64_t1": "int8_fbgemm",
        "fastest_float_b64_t1": "float_openvino",
        "int8_ms_b64_t1": 10.0,
        "eager_ms_b64_t1": 30.0,
        "fastest_float_ms_b64_t1": 20.0,
        "against_eager_b64_t1": 3.0,
        "against_eager_low_b64_t1": 2.5,
        "against_eager_high_b64_t1": 3.5,
        "against_fastest_b64_t1": 2.0,
        "against_fastest_low_b64_t1": 1.9,
        "against_fastest_high_b64_t1": 2.1,
        "warning": "",
        "environments": {name: record["environment"] for name, record in records.items()},
    }


def test_the_repeated_headline_prevails_over_the_verdicts(course, records):
    benchmark = records["04_cpu_benchmark"]
    repeated = {"int8": "int8_x86", "int8_ms": 0.6, "against_eager": 7.77, "processes": 3}
    benchmark["headline"] = benchmark["verdicts"].head(1).assign(**repeated, rounds=20)
    for name, record in records.items():
        results.write(course, name, record)
    summary = results.read(course.results_dir, "summary")
    assert summary["fastest_int8_b1_t1"] == "int8_x86"
    assert summary["int8_ms_b1_t1"] == 0.6
    assert summary["against_eager_b64_t1"] == 3.0  # not repeated: as the verdicts have it
    table = results.headline(summary)
    assert table["int8"][2] == "0.60 ms"
    assert table["change"][2] == "7.77 times faster (9.00 to 11.00)"
    assert "over 3 processes of 20 rounds" in results.readme_block(summary)


def test_a_file_that_is_no_text_is_told(tmp_path):
    (tmp_path / "other.json").write_bytes('{"a": 1}'.encode("utf-16"))
    with pytest.raises(ResultsError, match=r"other"):
        results.read(tmp_path, "other")


def test_the_first_of_several_models_counts():
    two = {"weights": {"float32, mnist": "aaa", "float32, fashion": "ccc"}}
    results.check_weights({"03": {"weights": {"float32": "aaa"}}, "06": two})
    with pytest.raises(ResultsError, match="bbb in 03, aaa in 06"):
        results.check_weights({"03": {"weights": {"float32": "bbb"}}, "06": two})


# Figures of different weights


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_figures_of_different_weights_are_refused(course, summary, records, capsys, kind):
    second = "04_cpu_benchmark"
    environment = records[second]["environment"]
    environment["weights"] = environment["weights"] | {kind: "ccc"}
    results.write(course, second, records[second])  # must not end the notebook
    out = capsys.readouterr().out
    assert out.startswith(f"summary.json is not written: the {kind} weights differ (")
    assert "ccc in 04_cpu_benchmark" in out
    assert out.endswith("run 03_fusion_and_calibration and 04_cpu_benchmark again\n")
    assert results.read(course.results_dir, "summary") == summary
    with pytest.raises(ResultsError, match=f"the {kind} weights differ"):
        results.collect(course.results_dir)


def test_an_earlier_notebook_says_nothing_before_the_later_one_has_run_again(
    course, summary, records, capsys
):
    first = records["03_fusion_and_calibration"]
    first["environment"]["weights"] = {"float32": "new", "int8": "newer"}
    results.write(course, "03_fusion_and_calibration", first)
    assert capsys.readouterr().out == ""
    assert results.read(course.results_dir, "summary") == summary


def test_records_without_hashes_are_compared_as_before(course, records):
    for name, record in records.items():
        record["environment"].pop("weights", None)
        results.write(course, name, record)
    assert "weights" not in results.readme_block(results.read(course.results_dir, "summary"))


def test_a_section_names_its_origin_or_is_not_shown(course, summary, records, monkeypatch):
    name = "04_cpu_benchmark"
    like = records["03_fusion_and_calibration"]["environment"]
    record, note = results.section(course.results_dir, name, like)
    assert record == results.read(course.results_dir, name)
    assert note.startswith("Notebook 04, this machine's run: 2026-02-01 10:20:30 UTC, some digits")
    monkeypatch.setattr(results, "REFERENCE", course.results_dir)
    assert "the reference run" in results.section(course.results_dir, name, like)[1]
    other = like | {"weights": {"float32": "zzz"}}
    record, note = results.section(course.results_dir, name, other)
    assert record is None
    assert "float32 weights differ (zzz in the sections above, aaa in 04_cpu_benchmark)" in note


def test_origin_keeps_the_mark_of_a_changed_tree(records):
    line = results.origin(records["04_cpu_benchmark"]["environment"])
    assert line == (
        "2026-02-01 10:20:30 UTC, some digits, quick profile, B CPU (family 25, model 17; avx2), "
        "torch 2.15.0, OpenVINO 2026.4.1, float32 weights aaa, int8 weights bbb, "
        "commit 0123456789+changes"
    )


# Advice


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (1.2, 1.4, "is faster than every float32 of notebook 04 (1.20 times or more): use it"),
        (0.7, 0.9, "is slower than float32 in OpenVINO: prefer that where only latency counts"),
        (0.9, 1.1, "and float32 in OpenVINO are too close to call: let size decide"),
    ],
)
def test_advice_on_latency_has_a_sentence_for_each_outcome(summary, low, high, said):
    summary |= {"against_fastest_low_b1_t1": low, "against_fastest_high_b1_t1": high}
    assert f"At batch 1, on one thread of this processor, int8 in eager PyTorch {said}." in (
        results.advice(summary)
    )


def test_advice_on_accuracy_is_the_lower_end_of_the_interval(summary):
    assert "int8 is at most 1.10 points worse than float32" in results.advice(summary)
    better = results.advice(summary | {"difference_low": 0.001})
    assert "int8 is no worse than float32" in better


def test_reading_what_is_missing_or_damaged(tmp_path):
    with pytest.raises(ResultsError, match=r"00_quickstart\.json cannot be read.*run notebook 00"):
        results.read(tmp_path, "00_quickstart")
    (tmp_path / "00_quickstart.json").write_text('{"a": ')
    with pytest.raises(ResultsError, match="run notebook 00_quickstart"):
        results.read(tmp_path, "00_quickstart")


def test_folder_prefers_this_run_to_the_reference(course, tmp_path, monkeypatch):
    reference = tmp_path / "reference"
    monkeypatch.setattr(results, "REFERENCE", reference)
    with pytest.raises(ResultsError, match="no results of a, b: run these notebooks first"):
        results.folder(course, "a", "b")
    reference.mkdir()
    for name in "ab":
        (reference / f"{name}.json").write_text("{}")
    results.write(course, "a", {})
    assert results.folder(course, "a", "b") == reference  # never half of each
    results.write(course, "b", {})
    assert results.folder(course, "a", "b") == course.results_dir


def test_headline_by_hand(summary):
    table = results.headline(summary)
    assert list(table.columns) == ["", "float32", "int8", "change"]
    assert table[""].tolist() == [
        "accuracy on 1,000 test images",
        "file size",
        "latency, batch 1, against float32 eager",
        "latency, batch 1, against float32 fastest: OpenVINO",
        "latency, batch 64, against float32 eager",
        "latency, batch 64, against float32 fastest: OpenVINO",
    ]
    assert table["float32"].tolist() == [
        *("99.00%", "44.80 MB", "5.00 ms", "0.40 ms", "30.00 ms", "20.00 ms")
    ]
    assert table["int8"].tolist() == [
        *("98.50%", "11.20 MB", "0.50 ms", "0.50 ms", "10.00 ms", "10.00 ms")
    ]
    assert table["change"].tolist() == [
        "-0.50 points (McNemar p = 0.18)",
        "4.00 times smaller",
        "10.00 times faster (9.00 to 11.00)",
        "0.80 times as fast: slower (0.70 to 0.90)",
        "3.00 times faster (2.50 to 3.50)",
        "2.00 times faster (1.90 to 2.10)",
    ]


def test_readme_block_says_where_the_numbers_come_from(summary):
    block = results.readme_block(summary)
    assert block.startswith(START)
    assert block.endswith(END)
    assert results.markdown(results.headline(summary)) in block
    accuracy, latency = block.split(
        "Latency at batch 1 and 64, on one thread, comes from [How much smaller and faster"
    )
    assert "[How does float32 become int8?](notebooks/03_fusion_and_calibration.ipynb)" in accuracy
    assert ": 2026-01-31, some digits, quick profile" in accuracy
    assert "A CPU (avx2), torch 2.15.0, float32 weights aaa, int8 weights bbb" in accuracy
    assert "2026-02-01 10:20:30 UTC" in latency
    assert "B CPU (family 25, model 17; avx2)" in latency


def test_update_readme_replaces_only_the_block_and_is_idempotent(summary, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n\n{START}\nold\n{END}\n\nafter\n", encoding="utf-8")
    results.update_readme(readme, summary)
    once = readme.read_text(encoding="utf-8")
    assert once == f"before\n\n{results.readme_block(summary)}\n\nafter\n"
    results.update_readme(readme, summary)
    assert readme.read_text(encoding="utf-8") == once


@pytest.mark.parametrize("text", ["nothing", START, END, f"{START}{START}{END}"])
def test_update_readme_needs_the_markers(summary, tmp_path, text):
    readme = tmp_path / "README.md"
    readme.write_text(text, encoding="utf-8")
    with pytest.raises(ResultsError, match=r"README\.md needs one line"):
        results.update_readme(readme, summary)
    assert readme.read_text(encoding="utf-8") == text


def test_committed_reference_results_are_strict_json():
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    for path in results.REFERENCE.glob("*.json"):
        json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (1.1, 1.3, "faster"),
        (0.9, 1.3, "as fast: a tie"),
        (1.004, 1.3, "as fast: a tie"),  # shown as 1.00
        (0.7, 0.996, "as fast: a tie"),
        (0.7, 0.9, "as fast: slower"),
    ],
)
def test_a_ratio_whose_interval_contains_one_is_a_tie(low, high, words):
    assert results.faster(1.2, low, high) == f"1.20 times {words} ({low:.2f} to {high:.2f})"


@pytest.mark.parametrize(
    ("weights", "difference", "p", "told"),
    [("aaa", -0.0005, 0.4, True), ("aaa", -0.01, 0.01, False), ("zzz", 0.0005, 0.4, False)],
    ids=["as good", "worse", "of other weights"],
)
def test_the_smallest_file_is_told_if_it_keeps_the_accuracy(
    course, records, weights, difference, p, told
):
    small = {"name": "ternary, lzma", "bytes": 448_000, "float_bytes": 44_800_000, "times": 100.0}
    small |= {"difference": difference, "mcnemar_p": p}
    record = {"smallest": small, "environment": {"weights": {"float32": weights}}}
    results.write(course, "07_low_bit", record)
    for source, written in records.items():
        results.write(course, source, written)
    summary = results.read(course.results_dir, "summary")
    assert ("smallest" in summary) == told
    last = results.headline(summary).iloc[-1].tolist()
    if told:
        assert last[0].endswith("ternary, lzma") and last[2] == "not int8: 0.45 MB"
        assert last[3] == "100 times smaller, accuracy -0.05 points (McNemar p = 0.4)"
    else:
        assert "latency" in last[0]
