"""One direction of a channel, a ring of frames in shared memory; knows nothing of values."""
