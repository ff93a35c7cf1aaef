"""Released weights → packs."""
