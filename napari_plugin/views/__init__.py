"""The parts of the dock. They know no viewer."""
