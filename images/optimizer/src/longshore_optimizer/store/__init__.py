"""Where artifacts go: content-addressed, found again by the key of everything that decided them."""
