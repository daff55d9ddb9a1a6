"""How what ships is made."""
