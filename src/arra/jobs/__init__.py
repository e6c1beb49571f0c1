"""What the commands do, as functions of Python values; the command line only calls them."""
