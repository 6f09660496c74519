"""The HTTP/JSON gateway, its description, health and the page."""
