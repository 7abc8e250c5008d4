"""Selector `sliding`: the nearest keys instead of the best ones."""
