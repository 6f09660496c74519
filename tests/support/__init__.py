"""What several test modules need: targets and bridges as processes, and ways to talk to them."""
