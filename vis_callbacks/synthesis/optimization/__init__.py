"""How images are made by ascent: what is optimised, for what, and by which steps."""
