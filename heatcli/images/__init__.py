"""Pictures in and out: reading, preprocessing, baselines, overlays."""
