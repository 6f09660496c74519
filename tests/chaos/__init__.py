"""The crash test: clients at work while bridge, target and connection die under them; then a reckoning."""
