"""Explaining many images: plan the outputs, explain in batches, write a figure and a report for each image."""

from heatcli.run.work.request import Done, Empty, Failed, Job, Request
from heatcli.run.work.runner import Run

__all__ = ["Done", "Empty", "Failed", "Job", "Request", "Run"]
