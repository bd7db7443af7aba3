"""The main job over many images: plan the outputs, explain in batches, write an overlay and a report for each."""

from heatcli.run.request import Done, Failed, Job, Request
from heatcli.run.runner import Run

__all__ = ["Done", "Failed", "Job", "Request", "Run"]
