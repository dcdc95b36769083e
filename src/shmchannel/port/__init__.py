"""A port, what it is connected to, and how that ends."""
