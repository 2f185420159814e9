"""`python -m gateways.sandbox`."""

import sys

from gateways.sandbox.command import main

sys.exit(main(sys.argv[1:]))
