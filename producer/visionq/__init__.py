"""The producer side of visionq."""
