"""The gallery: one page of all explanations in a folder, and pages of the same make for results of other commands."""
