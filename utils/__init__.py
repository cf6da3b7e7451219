"""The small library behind the notebooks. See the README for the map of its modules."""
