"""Models of full size from the libraries themselves, by their files alone."""

import pytest

from tests.zoo.full_size import MODELS, compared
from tests.zoo.loading import DATA

pytestmark = [pytest.mark.zoo, pytest.mark.slow]
TOLERANCE = 1e-5  # of the largest feature: up to 50 layers, each rounded to float32


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_full_size(name, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("timm")
    pytest.importorskip("open_clip")
    assert (DATA / name / "recorded.npz").is_file()  # which shares its row of docs/backbones.md
    assert compared(name, tmp_path) < TOLERANCE
