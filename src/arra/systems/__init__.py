"""Published systems as recipes with claims. Only this room and the command line name them."""
