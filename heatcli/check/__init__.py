"""`heatcli check`: what must hold of a model and its heatmaps, for CI."""
