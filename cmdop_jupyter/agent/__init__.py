"""What runs where the command runs. Standard library only, Python 3.9 or newer; knows nothing of notebooks or links."""
