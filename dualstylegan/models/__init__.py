"""Models: where they come from, how they lie on disk, what they are in memory."""
