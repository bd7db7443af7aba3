"""The JSON report of an explanation, and its schema."""
