"""Where pictures go: rendering, the picture store, loggers."""
