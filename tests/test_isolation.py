import importlib
import operator
import os
import signal
import sys
import time

import psutil
import pytest

from utils.lab import isolation

# What the child calls comes from Python itself: a child that imports torch starts in seconds.


@pytest.fixture(scope="module", autouse=True)
def first_child():
    """With it comes a process of Python's own, which watches over the others and stays."""
    isolation.call_each(abs, [(1,)], seconds=5)


@pytest.fixture(autouse=True)
def no_child_is_left(first_child):
    before = psutil.Process().children()
    yield
    assert psutil.Process().children() == before


def values(outcomes):
    return [outcome.value for outcome in outcomes]


def problems(outcomes):
    return [outcome.problem for outcome in outcomes]


def test_values_come_back_in_order():
    outcomes = isolation.call_each(operator.mul, [(2, 3), (5, 7), ("a", 3)], seconds=5)
    assert values(outcomes) == [6, 35, "aaa"]
    assert problems(outcomes) == [None, None, None]


def test_no_calls_need_no_child(monkeypatch):
    monkeypatch.setattr(isolation, "_Child", None)
    assert isolation.call_each(operator.mul, [], seconds=5) == []


def test_an_exception_is_a_problem_and_the_child_goes_on():
    process = ("__import__('os').getpid()",)
    calls = [process, ("1 / 0",), ("int('x')",), process]
    first, zero, word, last = isolation.call_each(eval, calls, seconds=5)
    assert zero == isolation.Outcome(None, "ZeroDivisionError: division by zero")
    assert word.problem.startswith("ValueError: invalid literal for int()")
    assert first.value == last.value != os.getpid()


def test_a_value_that_cannot_be_sent_is_a_problem():
    first, last = isolation.call_each(eval, [("lambda: 0",), ("1 + 1",)], seconds=5)
    assert "pickle" in first.problem
    assert last.value == 2


def test_a_call_that_sleeps_is_ended_at_the_limit():
    start = time.monotonic()
    outcomes = isolation.call_each(time.sleep, [(60,), (0,), (60,)], seconds=0.5)
    assert problems(outcomes) == ["not done after 0.5 s", None, "not done after 0.5 s"]
    assert time.monotonic() - start < 30


def test_a_call_that_never_lets_go_is_ended_at_the_limit():
    """Within one instruction of C, where Python looks at no signal."""
    calls = [("sum(iter(int, 1))",), ("1 + 1",)]
    hung, last = isolation.call_each(eval, calls, seconds=0.5)
    assert hung == isolation.Outcome(None, "not done after 0.5 s")
    assert last.value == 2


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_call_that_ignores_a_request_to_end_is_ended():
    ignore = "__import__('signal').signal(15, 1)", "__import__('time').sleep(30)"
    start = time.monotonic()
    outcomes = isolation.call_each(eval, [(text,) for text in ignore], seconds=0.5)
    assert problems(outcomes) == [None, "not done after 0.5 s"]
    assert time.monotonic() - start < 15


def test_a_child_that_is_fast_enough_is_not_ended():
    assert problems(isolation.call_each(time.sleep, [(0.3,), (0.3,)], seconds=2)) == [None, None]


def test_the_start_of_a_child_does_not_count(monkeypatch, tmp_path):
    (tmp_path / "slow_to_import.py").write_text(
        "import multiprocessing, time\n"
        "if multiprocessing.current_process().name != 'MainProcess':\n"
        "    time.sleep(1.5)\n"
        "def double(x):\n"
        "    return 2 * x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    double = importlib.import_module("slow_to_import").double
    start = time.monotonic()
    assert values(isolation.call_each(double, [(2,)], seconds=1)) == [4]
    assert time.monotonic() - start > 1.5


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(
    ("crash", "words"),
    [
        ("abort()", "ended by SIGABRT"),
        ("_exit(3)", "ended with exit code 3"),
        ("_exit(0)", "ended with exit code 0"),
        (f"kill(__import__('os').getpid(), {int(signal.SIGSEGV)})", "ended by SIGSEGV"),
    ],
)
def test_a_crash_is_named_and_the_next_call_runs(crash, words):
    calls = [("1 + 1",), (f"__import__('os').{crash}",), ("2 + 2",)]
    outcomes = isolation.call_each(eval, calls, seconds=5)
    assert values(outcomes) == [2, None, 4]
    assert problems(outcomes) == [None, words, None]


def test_what_a_dying_child_says_is_not_shown(capfd):
    isolation.call_each(eval, [("__import__('sys').exit('last words')",)], seconds=5)
    assert capfd.readouterr().err == ""


def test_an_exit_without_a_known_signal_has_a_number():
    assert isolation._exit(-250) == "ended with exit code -250"
    assert isolation._exit(None) == "ended with exit code None"


def test_calls_share_a_child_unless_it_is_to_be_fresh():
    shared = values(isolation.call_each(os.getpid, [()] * 3, seconds=5))
    fresh = values(isolation.call_each(os.getpid, [()] * 3, seconds=5, fresh=True))
    assert len(set(shared)) == 1
    assert len(set(fresh)) == 3
    assert os.getpid() not in shared + fresh


def test_environ_is_the_child_s_only(monkeypatch):
    monkeypatch.setenv("COURSE_TEST_OLD", "before")
    before = dict(os.environ)
    environ = {"COURSE_TEST_NEW": "1", "COURSE_TEST_OLD": "after"}
    calls = [("COURSE_TEST_NEW",), ("COURSE_TEST_OLD",), ("PATH",)]
    found = values(isolation.call_each(os.getenv, calls, seconds=5, environ=environ))
    assert found == ["1", "after", os.environ["PATH"]]
    assert dict(os.environ) == before


def test_every_fresh_child_gets_the_environment():
    calls = [("COURSE_TEST_NEW",)] * 2
    environ = {"COURSE_TEST_NEW": "1"}
    outcomes = isolation.call_each(os.getenv, calls, seconds=5, fresh=True, environ=environ)
    assert values(outcomes) == ["1", "1"]


@pytest.mark.parametrize("seconds", [0, -1])
def test_the_limit_must_be_positive(seconds):
    with pytest.raises(ValueError, match=f"seconds={seconds}: the limit must be positive"):
        isolation.call_each(operator.add, [(1, 2)], seconds=seconds)


def test_a_child_that_does_not_start_is_a_problem(monkeypatch):
    monkeypatch.setattr(isolation, "START_SECONDS", 0.001)
    outcomes = isolation.call_each(operator.add, [(1, 2)], seconds=5)
    assert problems(outcomes) == ["the process did not start in 0.001 s"]


def test_the_child_ends_when_the_parent_is_interrupted():
    def calls():
        yield (1, 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        isolation.call_each(operator.add, calls(), seconds=5)
    # that no child is left, the fixture sees
