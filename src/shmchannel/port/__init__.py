"""A port: one end of a channel, its connection, and how that ends."""
