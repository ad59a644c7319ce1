"""The terminal browser (`ggcp-schema browse`): widgets, and the document that they show, which `inspect` explains."""
