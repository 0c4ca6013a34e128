"""The processes of one server: a parent that watches, and workers that serve."""
