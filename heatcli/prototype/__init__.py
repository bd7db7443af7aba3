"""Prototypes: pictures with the highest score of a class, found by gradient ascent under a prior."""
