"""Everything that runs on Ray: joining it, the shape of actors, the actors themselves and their scheduler."""
