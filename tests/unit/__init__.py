"""What each part promises, one part at a time."""
