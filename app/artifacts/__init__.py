"""The files that jobs leave for their users, and the store that holds them."""
