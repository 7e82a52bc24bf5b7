"""Where pictures go: the picture store on disk, and the loggers."""
