"""The terminal browser (`ggcp-schema browse`). Everything but `app` and the widgets is free of Textual."""
