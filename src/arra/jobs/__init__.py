"""What the commands do: each job is a function of Python values, which the command line calls too."""
