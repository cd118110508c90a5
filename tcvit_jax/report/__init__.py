"""Reports of a run: progress on the terminal, log files and plots."""
