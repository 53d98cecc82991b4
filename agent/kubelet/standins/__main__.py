"""Run one of the programs of this folder; how it is called, and why so, is told in ``__init__``."""

import importlib
import os
import sys

folder = os.path.dirname(os.path.abspath(__file__))
sys.path[0] = os.path.dirname(folder)
importlib.import_module(f"{os.path.basename(folder)}.{sys.argv[1]}").main(sys.argv[2:])
