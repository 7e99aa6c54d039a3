"""Damaged and hostile inputs, drawn at random: the program answers or refuses in one line."""
