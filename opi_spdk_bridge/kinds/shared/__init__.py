"""What several kinds have in common: bases, rules, claims, limits, keys."""
