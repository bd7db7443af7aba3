"""Loading: an artifact, its network and its pictures as one model."""
