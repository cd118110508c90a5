"""Ctrl-C on the command line, in real processes. Interrupted training is in `training/test_interrupts.py`."""

import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT

# A command whose body is inserted. It prints a line when it can be interrupted.
PROGRAM = """
import hashlib, os, sys, threading, time
from pathlib import Path
from tcvit_jax import atomic, interrupts
from tcvit_jax.command import Command
interrupts.GRACE = 0.5 if {is_saving} else 3
def wait():
    print("started", flush=True)
    # One long sleep would miss a signal that arrives right before it.
    for _ in range(6000):
        time.sleep(0.01)
def run(flags):
    interrupts.announce_saving({is_saving})
{body}
sys.exit(Command(None, lambda parser: None, run)())
"""
# Compiled code that runs for minutes, in which Python calls no signal handlers. It has begun when the line is printed.
COMPILED = (
    'threading.Timer(0.3, print, ["started"], dict(flush=True)).start(); hashlib.pbkdf2_hmac("md5", b"", b"", 2**30)'
)


def start(*body, is_saving=False):
    """Start a command with the lines of its body, which may save its work, and wait until it runs."""
    text = PROGRAM.format(is_saving=is_saving, body="\n".join(f"    {line}" for line in body))
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", text], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == "started\n", process.communicate()[1]
    return process


def interrupt(process):
    """Send `SIGINT` and return the exit status, standard output, standard error and the seconds until the end."""
    start_time = time.monotonic()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    return process.returncode, output, errors, time.monotonic() - start_time


def test_interrupted_command_prints_one_line_and_removes_its_drafts(tmp_path):
    process = start(f'with atomic.write("{tmp_path}/new/out") as draft:', "    draft.touch()", "    wait()")
    code, output, errors, seconds = interrupt(process)
    assert (code, output, errors) == (130, "", "interrupted\n")
    assert seconds < 10
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "lines",
    [
        ("import gc", "gc.callbacks.append(lambda *_: wait())", "gc.collect()"),
        ("class Value:", "    def __del__(self): wait()", "Value()"),
    ],
)
def test_interrupt_is_raised_again_after_python_discarded_it(tmp_path, lines):
    body = (f'with atomic.write("{tmp_path}/new/out") as draft:', *(f"    {line}" for line in lines), "    wait()")
    code, output, errors, _ = interrupt(start(*body))
    assert (code, errors) == (130, "interrupted\n")
    assert "started" in output  # The second `wait` was reached before the exception was raised again.
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", ["ValueError()", "InputError('w.bin: cannot be read')"])
def test_error_in_place_of_the_interrupt_is_not_reported(error):
    """Orbax converts every exception of a read, also that of Ctrl-C, to an error of the file."""
    lines = (
        "from tcvit_jax.errors import InputError", "try: wait()", f"except BaseException: raise {error} from None",
    )  # fmt: skip
    assert interrupt(start(*lines))[:3] == (130, "", "interrupted\n")


def test_finalizers_of_interrupted_code_are_not_reported(tmp_path):
    """Such as that of an open directory, whose warning is an error here."""
    lines = ("class Unfinished:", "    def __del__(self): raise ValueError", "unfinished = Unfinished()", "wait()")
    code, _, errors, _ = interrupt(start(*lines))
    assert (code, errors) == (130, "interrupted\n")


def test_command_ends_soon_while_compiled_code_runs():
    code, _, errors, seconds = interrupt(start(COMPILED))
    assert (code, errors) == (130, "interrupted\n")
    assert seconds < 10


@pytest.mark.parametrize(
    "body",
    [
        # Saving after the first Ctrl-C, in Python or in compiled code.
        ("try:", "    wait()", "finally:", "    time.sleep(60)"),
        (COMPILED,),
    ],
)
def test_second_interrupt_ends_the_command_at_once(body):
    process = start(*body, is_saving=True)
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "interrupted: saving a checkpoint; press Ctrl-C again to stop at once\n"
    code, _, errors, seconds = interrupt(process)
    assert (code, errors) == (130, "interrupted\n")
    assert seconds < 10


def test_interrupted_command_does_not_wait_for_its_threads():
    process = start("threading.Thread(target=time.sleep, args=[60]).start()", "wait()")
    code, _, errors, seconds = interrupt(process)
    assert (code, errors) == (130, "interrupted\n")
    assert seconds < 10


def test_saving_command_has_time_after_one_interrupt():
    body = ("try:", "    wait()", "except KeyboardInterrupt:", "    time.sleep(1.5)", "return 75")
    code, output, errors, _ = interrupt(start(*body, is_saving=True))
    assert (code, output) == (75, "")
    assert errors == "interrupted: saving a checkpoint; press Ctrl-C again to stop at once\n"


def test_interrupted_import_is_completed_first(tmp_path):
    """Exceptions in the initialization of compiled modules crash the process."""
    lines = ("import time", "print('started', flush=True)", "time.sleep(0.3)", "print('imported', flush=True)")
    (tmp_path / "slow.py").write_text("\n".join(lines))
    code, output, errors, _ = interrupt(start(f'sys.path.insert(0, "{tmp_path}")', "import slow", "time.sleep(60)"))
    assert (code, output, errors) == (130, "imported\n", "interrupted\n")
