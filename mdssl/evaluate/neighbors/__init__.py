"""Images that an encoder takes for similar."""
