"""Prototypes: the picture that a class stands for, found by gradient ascent under a prior."""
