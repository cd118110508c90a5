"""What a person sees of a run: progress while it goes, files when it is done."""
