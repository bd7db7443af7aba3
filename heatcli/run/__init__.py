"""The main job over many images: plan the outputs, explain in batches, write an overlay and a report for each."""

from heatcli.run.work.request import Done, Empty, Failed, Job, Request
from heatcli.run.work.runner import Run

__all__ = ["Done", "Empty", "Failed", "Job", "Request", "Run"]
