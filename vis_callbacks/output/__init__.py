"""From panels to pictures: rendering, the picture store, loggers and other destinations."""
