"""The command line: one file a command, options that several commands share in `options.py`."""
