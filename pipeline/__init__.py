"""Coupling: from data to pair shards."""
