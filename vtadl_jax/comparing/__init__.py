"""The comparison of chapter 7 of Mishra's thesis: methods × categories, a cell each."""
