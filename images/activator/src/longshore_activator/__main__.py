"""Run the activator with `python -m longshore_activator`."""

from longshore_activator.app import main

main()
