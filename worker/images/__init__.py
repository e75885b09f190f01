"""Pictures: from a reference to pixels."""
