"""Figures: what is drawn of an explanation, from its picture, its map and the report on both."""
