"""The index of a folder of explanations: what is done, with which parameters; shards and merging."""
