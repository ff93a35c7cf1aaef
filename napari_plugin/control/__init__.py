"""What the dock does: runs, review, drawing, keys."""
