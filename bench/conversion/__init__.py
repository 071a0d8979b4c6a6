"""What converts, and whether it answers as its source on rows that the conversion has not seen."""
