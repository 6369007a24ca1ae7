"""Where SSIS packages run: one module (or folder) a kind of source."""
