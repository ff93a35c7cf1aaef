"""What commands draw: bars, tables, words."""
