"""Values to bytes and back; knows nothing of rings."""
