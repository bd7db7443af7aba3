"""Sequences: one-hot letters in place of pixels, logos in place of overlays."""
