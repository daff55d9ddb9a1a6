"""Tasks: one class for each kind of run that the command line offers."""
