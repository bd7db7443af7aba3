"""`heatcli discover`: groups of heatmaps within a class, ranked for a person to look at."""
