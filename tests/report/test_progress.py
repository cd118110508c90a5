"""Progress output where there is no terminal."""

from tcvit_jax.report.progress import Reporter


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
