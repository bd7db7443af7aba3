"""Heatmaps measured: metrics, controls, intervals, curves, and comparisons of models and methods."""
