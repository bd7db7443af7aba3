"""Explanations of sequences: one-hot letters instead of pixels, logos instead of overlays."""
