"""Progress output, on a terminal and elsewhere."""

import functools
import io
import re
import time
import types

import pytest
import rich.console

from tcvit_jax.report import progress as progress_module
from tcvit_jax.report.progress import ImageProgress, Reporter, SlowSteps, announce_first_call, announce_slow


def test_reporter_prints_plain_lines_without_a_terminal(capsys):
    with Reporter(10, 3) as reporter:
        reporter.print_line("data [1, 2] of 'x'")
        reporter.set_step(4)
        reporter.show_status("loss 1.0")
    assert capsys.readouterr().out == "data [1, 2] of 'x'\nstep 4/10  loss 1.0\n"


def test_disabled_reporter_prints_nothing(capsys):
    with Reporter(10, is_enabled=False) as reporter:
        reporter.print_line("hello")
        reporter.show_status("hello")
    assert capsys.readouterr().out == ""


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_slow_block_is_announced_while_it_runs():
    lines = []
    with announce_slow("compiling the model", lines.append, after=0.01):
        wait_for(lambda: lines)
        assert lines == ["compiling the model ..."]
    assert lines == ["compiling the model ..."]


def test_quick_blocks_and_later_calls_are_not_announced():
    lines = []
    with announce_slow("compiling", lines.append, after=0.3):
        pass
    with pytest.raises(ValueError, match="failure"), announce_slow("compiling", lines.append, after=0.3):
        raise ValueError("failure")
    with SlowSteps(lines.append, after=0.3) as step:
        step("reading")
        step("writing")
    delays = iter((0.0, 0.5))
    function = announce_first_call(lambda x: time.sleep(next(delays)) or x + 1, "compiling", lines.append, after=0.3)
    # Only the first call compiles.
    assert (function(1), function(x=2)) == (2, 3)
    assert lines == []


def test_slow_first_call_and_slow_steps_are_announced():
    lines = []
    function = announce_first_call(lambda: wait_for(lambda: lines), "compiling", lines.append, after=0.01)
    function()
    with SlowSteps(lines.append, after=0.01) as step:
        step("reading")
        wait_for(lambda: len(lines) > 1)
        step("writing")
        wait_for(lambda: len(lines) > 2)
    assert lines == ["compiling ...", "reading ...", "writing ..."]


def test_quick_pass_over_images_shows_nothing(capsys):
    with ImageProgress("evaluation", 100) as progress:
        for images in range(8, 105, 8):
            progress.update(images)
    assert capsys.readouterr() == ("", "")


def test_slow_pass_over_images_prints_lines_at_intervals(capsys, monkeypatch):
    clock = iter([0.0, 20.0, 40.0, 45.0, 55.0, 70.0])
    monkeypatch.setattr(progress_module, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    with ImageProgress("evaluation", 4900) as progress:
        for images in range(1000, 5001, 1000):
            progress.update(images)
    # Without the first batch, which compiles, and without padding.
    lines = ("evaluation: 2,000/4,900 images, 50 images/s", "evaluation: 4,900/4,900 images, 78 images/s")
    assert capsys.readouterr() == ("", "".join(f"{line}\n" for line in lines))


def test_slow_pass_over_images_shows_a_bar_on_a_terminal(monkeypatch):
    output = io.StringIO()
    console = functools.partial(rich.console.Console, file=output, force_terminal=True, width=100)
    monkeypatch.setattr(progress_module, "Console", lambda **options: console())
    with ImageProgress("evaluation", 64, interval=0.001) as progress:
        for images in (8, 16, 32, 64):
            progress.update(images)
            time.sleep(0.01)
    text = output.getvalue()
    assert "evaluation" in text and "64/64 images" in text
    # At the end the line of the bar is erased.
    assert text.endswith("\x1b[2K")


def test_pass_over_images_of_a_run_is_part_of_its_output(capsys, monkeypatch):
    monkeypatch.setattr(progress_module, "LINE_INTERVAL", 1e-9)
    with Reporter(10) as reporter, reporter.image_progress("evaluation", 20) as progress:
        progress.update(10)
        time.sleep(0.001)
        progress.update(20)
    captured = capsys.readouterr()
    assert re.fullmatch(r"evaluation: 20/20 images, [\d,]+ images/s\n", captured.out)
    assert captured.err == ""
