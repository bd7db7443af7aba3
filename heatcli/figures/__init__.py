"""Figures of explanations, drawn from the picture, the map and the report."""
