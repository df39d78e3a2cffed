"""Prompts of classes from names and metadata only: no config and no data set."""

import pytest

from tests.helpers.photos import write_clip
from vpjax.core.errors import UserError
from vpjax.models.text.features import class_text_features, prompts_of_classes


def test_names_are_enough():
    found = prompts_of_classes(["tabby_cat", "beagle"])
    assert found.prompts == ["a photo of a tabby cat", "a photo of a beagle"]
    assert found.templates == ("a photo of a {name}",) and found.owners is None
    pets = prompts_of_classes(["tabby_cat", "beagle"], dataset="oxford_iiit_pet")
    assert pets.prompts[0] == "a photo of a tabby cat, a breed of pet" and len(pets.prompts) == 4


def test_templates_in_one_text_and_names_of_metadata():
    metadata = [{"name": "Danaus plexippus", "common_name": "monarch"}, {"name": "Bombus"}]
    classes = [facts["name"] for facts in metadata]
    found = prompts_of_classes(classes, metadata, templates="a {name}; one {name}, seen;")
    assert found.templates == ("a {name}", "one {name}, seen") and len(found.prompts) == 4
    both = prompts_of_classes(classes, metadata, templates="a {name}", name_type="both")
    assert both.prompts == ["a monarch", "a Danaus plexippus", "a Bombus"]
    assert both.owners.tolist() == [0, 0, 1]


def test_numbers_as_names_are_refused():
    with pytest.raises(UserError, match=r"2 of 2 classes.*text.class_names"):
        prompts_of_classes(["0", "1"])
    assert prompts_of_classes(["0", "1"], dataset="mnist").prompts[1] == "the number 0"


def test_features_need_weights_only_and_are_found_again(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("VPJAX_CACHE", str(tmp_path / "cache"))
    write_clip(tmp_path / "clip")
    ask = lambda *classes: class_text_features(str(tmp_path / "clip"), classes)  # noqa: E731
    with caplog.at_level("INFO", "vpjax"):
        first, again = ask("monarch", "butterfly"), ask("monarch", "butterfly")
    assert first.values.shape == (2, 6) and "features of 2 classes from" in caplog.text
    assert (first.values == again.values).all() and first.key == again.key
    assert ask("butterfly", "monarch").key != first.key
    with pytest.raises(UserError, match=r"need a CLIP, and backbone\.weights is empty"):
        class_text_features("", ["monarch"])
