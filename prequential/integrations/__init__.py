"""Thin doors: each translates one framework's hooks into the recorder's calls."""
