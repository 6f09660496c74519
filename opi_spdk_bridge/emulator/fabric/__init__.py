"""What both sides of NVMe over Fabrics share: addresses, names, and what goes over the wire."""
