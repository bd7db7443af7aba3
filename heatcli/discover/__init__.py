"""`heatcli discover`: groups of heatmaps within a class, ranked by how suspicious they are."""
