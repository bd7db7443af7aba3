"""The operators of the standard, one function each: `function(call, *inputs)` → the output, or a tuple of outputs."""
