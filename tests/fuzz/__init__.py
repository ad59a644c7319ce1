"""Damaged and odd files, made from good ones by recipes, and what must hold for each: see `__main__.py`."""
