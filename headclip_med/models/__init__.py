"""A name → a detector with its pack: domains, weights, scope, sharing, conversion."""
