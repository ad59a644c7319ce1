"""Views of a file as data. Nothing here prints."""
