"""Many runs side by side: what differs between them, tables with intervals and tests, and curves over a swept value."""
