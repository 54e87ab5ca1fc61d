"""Programs for those who work on mxfast."""
