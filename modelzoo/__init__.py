"""The model zoo: every architecture by the name its paper gave it; see zoo.py."""

from longview.modelzoo.zoo import create_model, families, find, list_models
from longview.names import check

check(__name__)

__all__ = ['create_model', 'families', 'find', 'list_models']
