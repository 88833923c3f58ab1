"""What goes into every evidence bundle as it is: the program that checks a bundle. It imports nothing of ours."""
