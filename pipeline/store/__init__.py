"""The pair store: a directory of WebDataset shards with sidecars and an index written last."""
