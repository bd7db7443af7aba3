"""`heatcli check`: tests of a model and its heatmaps, for continuous integration."""
