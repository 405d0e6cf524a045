"""`python -m fieldstation` is `fieldstation`."""

import sys

from fieldstation.cli import main

sys.exit(main())
