"""The inside of a network: feature maps, filters, and the pictures that excite a channel."""
