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


def test_values_come_back_in_order_and_exceptions_are_problems_in_one_child():
    process = ("__import__('os').getpid()",)
    calls = [process, ("1 / 0",), ("lambda: 0",), ("None",), process]
    first, zero, function, nothing, last = isolation.call_each(eval, calls, seconds=30)
    assert zero == (None, "ZeroDivisionError: division by zero")
    assert function.value is None and function.problem  # it cannot be sent back
    assert nothing == (None, None)
    assert last.value != os.getpid() != first.value


def test_a_call_that_never_lets_go_is_ended_at_the_limit():
    """Within one instruction of C, where Python looks at no signal."""
    start = time.monotonic()
    calls = [("sum(iter(int, 1))",), ("1 + 1",)]
    outcomes = isolation.call_each(eval, calls, seconds=0.5)
    assert outcomes == [(None, "not done after 0.5 s"), (2, None)]
    assert time.monotonic() - start < 60


def test_the_start_of_a_child_does_not_count(monkeypatch, tmp_path):
    (tmp_path / "slow_to_import.py").write_text(
        "import multiprocessing, time\n"
        "if multiprocessing.current_process().name != 'MainProcess':\n"
        "    time.sleep(2)\n"
        "def double(x):\n"
        "    return 2 * x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import slow_to_import

    assert values(isolation.call_each(slow_to_import.double, [(2,)], seconds=1)) == [4]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(
    ("crash", "words"),
    [
        ("_exit(3)", "ended with code 3"),
        (f"kill(__import__('os').getpid(), {int(signal.SIGSEGV)})", "ended by SIGSEGV"),
    ],
)
def test_a_crash_is_named_and_the_next_call_runs(crash, words):
    calls = [("1 + 1",), (f"__import__('os').{crash}",), ("2 + 2",)]
    outcomes = isolation.call_each(eval, calls, seconds=30)
    assert outcomes == [(2, None), (None, words), (4, None)]


def test_what_a_dying_child_says_is_not_shown(capfd):
    isolation.call_each(eval, [("__import__('os').write(2, b'last words')",)], seconds=30)
    [outcome] = isolation.call_each(eval, [("__import__('sys').exit('last words')",)], seconds=30)
    assert outcome == (None, "SystemExit: last words")
    assert capfd.readouterr().err == ""


def test_calls_share_a_child_unless_it_is_to_be_fresh():
    shared = values(isolation.call_each(os.getpid, [()] * 3, seconds=30))
    fresh = values(isolation.call_each(os.getpid, [()] * 3, seconds=30, fresh=True))
    assert len(set(shared)) == 1
    assert len(set(fresh)) == 3
    assert os.getpid() not in shared + fresh


def test_environ_is_the_child_s_only(monkeypatch):
    monkeypatch.setenv("COURSE_TEST_OLD", "before")
    before = dict(os.environ)
    environ = {"COURSE_TEST_NEW": "1", "COURSE_TEST_OLD": "after"}
    calls = [("COURSE_TEST_NEW",), ("COURSE_TEST_OLD",), ("PATH",)]
    outcomes = isolation.call_each(os.getenv, calls, seconds=30, fresh=True, environ=environ)
    assert values(outcomes) == ["1", "after", os.environ["PATH"]]
    assert dict(os.environ) == before


def test_the_child_ends_when_the_parent_is_interrupted():
    def calls():
        yield (1, 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        isolation.call_each(operator.add, calls(), seconds=30)
    # that no child is left, the fixture sees
