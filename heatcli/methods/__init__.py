"""Every method as data, the procedures that ask for walks, and targets."""
