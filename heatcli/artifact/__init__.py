"""Files become modules: one file a format, read without executing anything that the file brings."""
