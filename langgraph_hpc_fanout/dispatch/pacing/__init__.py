"""How many requests may leave for an endpoint: at once, and in a second or a minute."""
