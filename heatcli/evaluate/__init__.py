"""What a heatmap is worth, in numbers: metrics, controls, intervals, curves."""
