"""Where an artifact becomes one flat graph of ATen operators: capture, passes, kinds of operator."""
