"""What the daemon tells of itself: metrics, traces, logs."""
