"""Rules, one file for each kind of operator.

A rule is a frozen dataclass of its parameters. It is called with a `Step` and the multiplier of the output, and returns
a `Sent`: the multipliers of the inputs and what it books. It changes nothing and keeps no state.
"""
