"""Recipes: each file is one study from beginning to end, to be read aloud, run, copied and changed."""
