"""The NVMe-oF target side: transports, subsystems, and the wire that joins emulated targets."""
