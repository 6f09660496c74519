"""One contract suite for every kind of resource, and what is special about each."""
