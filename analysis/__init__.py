"""What is inside of a network: signals by depth, receptive fields, filters, attention maps.

Each file is one idea: pure functions of a module, its variables and a batch that return arrays. None knows a family or
a run; engine/pictures.py opens those, runtime/plots.py draws, pictures.py is the command.
"""

from longview import names

names.check(__name__)
