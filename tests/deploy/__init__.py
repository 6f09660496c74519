"""What is deployed: images, manifests, units, dashboards, held against the program they are for."""
