"""The parts of the dock; they know no viewer."""
