"""The work of a run: inputs, plan, pipeline of threads, worker processes or a Ray cluster."""
