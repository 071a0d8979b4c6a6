"""The activator of Longshore: holds connections while a model is at zero."""
