"""Where rules live, one file for each kind of operator.

A rule is a frozen dataclass of its parameters, called with a `Step` and the multiplier that comes in; it returns a
`Sent`: the multipliers that go out and what it books. It changes nothing and remembers nothing.
"""
