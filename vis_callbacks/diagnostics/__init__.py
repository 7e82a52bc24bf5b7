"""What is wrong with a training, in a sentence, with the picture that proves it: one file for each check."""
