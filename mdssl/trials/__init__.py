"""The trials of a storage: their states, their rows, and the commands that stop, retry, delete and archive them."""
