"""Apparatus of single notebooks: nothing in the core imports it."""
