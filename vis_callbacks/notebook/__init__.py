"""For notebooks and the command line: pictures of a model without a Trainer."""
