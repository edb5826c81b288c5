"""What to ask about: sources of items that are read in slices, never loaded whole."""
