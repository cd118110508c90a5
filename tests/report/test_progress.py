"""Plain lines where there is no terminal."""

from tcvit_jax.report.progress import Reporter


def test_lines_come_as_they_are(capsys):
    with Reporter(10, 3) as reporter:
        reporter.line("data [1, 2] of 'x'")
        reporter.step(4)
        reporter.note("loss 1.0")
    assert capsys.readouterr().out == "data [1, 2] of 'x'\nstep 4/10  loss 1.0\n"


def test_only_the_first_process_speaks(capsys):
    with Reporter(10, show=False) as reporter:
        reporter.line("hello")
        reporter.note("hello")
    assert capsys.readouterr().out == ""
