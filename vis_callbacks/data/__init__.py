"""Which images are shown, and what is known about them."""
