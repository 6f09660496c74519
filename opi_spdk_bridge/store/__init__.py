"""Where desired state survives: one interface, several media."""
