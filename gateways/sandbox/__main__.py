"""`python -m gateways.sandbox`: on its own, for a person, it logs plain lines to stdout."""

import logging
import sys

from gateways.sandbox.command import main

logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
sys.exit(main(sys.argv[1:]))
