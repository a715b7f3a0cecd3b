"""``python -m robusteval``."""

import sys

from robusteval.cli import main

sys.exit(main())
