"""Two code versions measured side by side on this machine, now."""
