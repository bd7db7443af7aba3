"""The two loops, forward and walk, their plan, the ledger, and a network's graphs by shape."""
