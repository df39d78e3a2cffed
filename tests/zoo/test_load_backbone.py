"""A file of weights alone, as its library saves it, gives the library's features."""

import pytest

from tests.zoo.loading import TOLERANCE, difference, features_of, recorded
from tests.zoo.table import folders, loaded


@pytest.mark.parametrize("folder", folders())
def test_weights_alone_are_enough(folder):
    case = recorded(folder)
    backbone = loaded(folder)
    assert difference(features_of(backbone, case["images"]), case["features"]) < TOLERANCE
