"""Programs: tests run them as processes of their own, and so can you. The top of each says how."""
