"""Views of a checkpoint as data: they print nothing."""
