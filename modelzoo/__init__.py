"""The model zoo: every architecture by the name its paper gave it; see zoo.py."""

from longview.modelzoo.zoo import backbone, create_model, families, find, list_models
from longview.names import check

check(__name__)

__all__ = ['backbone', 'create_model', 'families', 'find', 'list_models']
