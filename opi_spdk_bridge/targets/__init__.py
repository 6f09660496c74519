"""How the kinds look on the sorts of target that there are, a folder each."""
