"""The version of heatcli."""

__version__ = "0.2.0"
