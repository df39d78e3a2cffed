"""Sentences around class names; the recorded ones are cases of tests/golden."""

import pytest

from vpjax.core.errors import UserError
from vpjax.data import cars
from vpjax.models.text import templates, zero_shot
from vpjax.models.text.templates import choose, choose_zero_shot, class_prompts, zero_shot_names

BIRD = {
    "name": "Turdus merula",
    "common_name": "Blackbird",
    "species": "turdus merula",
    "scientific_name": "turdus merula",
    "genus": "turdus",
    "family": "turdidae",
    "order": "passeriformes",
}


def test_wildlife_from_species_to_order():
    other = BIRD | {"species": "salix ×fragilis"}
    prompts = class_prompts([BIRD, other], choose("auto", [BIRD]))
    assert prompts[:5] == [
        "a photo of turdus merula",
        "a wildlife photo of the species turdus merula",
        "an organism belonging to genus turdus",
        "an organism belonging to family turdidae",
        "a species in the order passeriformes",
    ]
    assert len(prompts) == 10 and prompts[5] == "a photo of salix ×fragilis"


def test_levels_that_are_not_known_have_no_template():
    known = {k: BIRD[k] for k in ("species", "scientific_name", "genus")}
    assert choose("auto", [known]) == templates.WILDLIFE[:3]


def test_cars():
    facts = cars.facts("Audi S4 Sedan 2012")
    assert class_prompts([facts], choose("auto", [facts])) == [
        "a photo of Audi S4 Sedan 2012",
        "a Audi S4 Sedan 2012 car",
        "a Audi S4",
        "a sedan made by Audi",
        "a sedan vehicle: Audi S4 Sedan 2012",
    ]
    # An aircraft has a model but no make: the templates of cars are not for it.
    plane = {"name": "707-320", "model": "707-320"}
    assert "car" not in " ".join(choose("auto", [plane], "fgvc_aircraft"))


@pytest.mark.parametrize("dataset", [*templates.SHOWN, "my_photos"])
def test_every_data_set_has_templates_that_need_a_name_alone(dataset):
    chosen = choose("auto", [{"name": "thing"}], f"{dataset}:1.0.0[train]")
    prompts = class_prompts(["thing"], chosen)
    assert prompts and all("thing" in p and "{" not in p for p in prompts)
    assert len(set(prompts)) == len(prompts)
    assert (dataset == "my_photos") == (chosen == templates.PHOTO)


def test_own_templates():
    assert choose(["{name}!", "the {name}"], []) == ("{name}!", "the {name}")
    assert choose("just {name}", []) == ("just {name}",)
    assert class_prompts(["ant", "bee"], ("{name}!", "the {name}")) == [
        *("ant!", "the ant"),
        *("bee!", "the bee"),
    ]
    assert choose("wildlife", [{"name": "x"}]) == templates.WILDLIFE


def test_what_a_class_has_not_is_named():
    with pytest.raises(UserError, match=r"needs 'family', but class 1 \(Ant\)"):
        class_prompts([BIRD, {"name": "Ant"}], ["of {family}"])
    with pytest.raises(UserError, match="needs 'family'"):
        class_prompts([BIRD | {"family": ""}], ["of {family}"])
    with pytest.raises(UserError, match=r"needs 'name', but class 0 \(7\)"):
        class_prompts([{"id": 7}], templates.PHOTO)


@pytest.mark.parametrize(
    ("template", "match"),
    [
        ("a {", "cannot be read"),
        ("a {}", "put a name in braces"),
        ("a {name.x}", "braces"),
        ("a {name:>999999999999}", "a field with a format"),  # of terabytes
        ("a {name!r}", "a field with a format"),
        ("a {name:{name}}", "a field with a format"),
    ],
)
def test_templates_that_cannot_be_read(template, match):
    with pytest.raises(UserError, match=match):
        class_prompts(["ant"], [template])


def test_choices_that_do_not_exist():
    with pytest.raises(UserError, match="Did you mean 'wildlife'"):
        choose("wildlive", [BIRD])
    with pytest.raises(UserError, match="list of templates is empty"):
        choose([], [BIRD])


def test_zero_shot_names():
    plain = {"name": "Salix_alba"}
    assert zero_shot_names([BIRD, plain], "common") == [["Blackbird"], ["Salix alba"]]
    assert zero_shot_names([BIRD, plain], "scientific") == [["Turdus merula"], ["Salix alba"]]
    assert zero_shot_names([BIRD, plain, "Audi"]) == [
        ["Blackbird", "Turdus merula"],
        ["Salix alba"],
        ["Audi"],
    ]


def test_zero_shot_templates_fit_the_names():
    prompts, _ = zero_shot.class_prompts(zero_shot_names([BIRD]), templates.ZERO_SHOT["both"])
    assert len(prompts) == 12 and prompts[5] == "a picture of Blackbird"
    assert prompts[6] == "a photo of a Turdus merula"
    for several in templates.ZERO_SHOT.values():
        assert len(zero_shot.class_prompts([["x"]], several)[0]) == len(several)


def test_zero_shot_templates_by_choice():
    assert choose_zero_shot("auto", [BIRD], "common") == templates.ZERO_SHOT["common"]
    assert choose_zero_shot("auto", [cars.facts("Audi S4 2012")], "both")[2] == "a {} car"
    for name in ("dtd", "vtab/dtd"):
        assert choose_zero_shot("auto", [{"name": "x"}], "both", name)[0].endswith("{} texture")
    for name in ("vtab/flowers102", "oxford_flowers102:1.0.0"):
        assert choose("auto", [{"name": "x"}], name) == templates.TEMPLATES["flowers"]
    assert choose("auto", [{"name": "x"}], "oxford_iiit_pet") == templates.TEMPLATES["pets"]
    assert choose_zero_shot("shapes", [{"name": "x"}], "both") == templates.ZERO_SHOT["shapes"]
    own = ["a {name} here", "no {}"]
    assert choose_zero_shot(own, [BIRD], "both") == ("a {} here", "no {}")
    with pytest.raises(UserError, match="Did you mean 'both'"):
        choose_zero_shot("auto", [BIRD], "boht")
    wild = choose_zero_shot("wildlife", [BIRD], "both")
    with pytest.raises(UserError, match="needs one {}"):
        zero_shot.class_prompts([["x"]], wild)


def test_zero_shot_faults():
    with pytest.raises(UserError, match="Did you mean 'common'"):
        zero_shot_names([BIRD], "comon")
    with pytest.raises(UserError, match="class 0 has no name"):
        zero_shot_names([{"id": 5}])


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ("oxford_iiit_pet:4.0.0[train]", "a photo of a {name}, a type of pet."),
        ("zhou:/data/split_zhou_OxfordPets.json", "a photo of a {name}, a type of pet."),
        ("oxford_flowers102", "a photo of a {name}, a type of flower."),
        ("zhou:/data/split_zhou_OxfordFlowers.json", "a photo of a {name}, a type of flower."),
        ("folder:/data/fgvc_aircraft", "a photo of a {name}, a type of aircraft."),
        ("dtd", "{name} texture."),
        ("zhou:/data/split_zhou_DescribableTextures.json", "{name} texture."),
        ("eurosat/rgb", "a centered satellite photo of {name}."),
        ("zhou:/data/split_zhou_EuroSAT.json", "a centered satellite photo of {name}."),
        ("food101", "a photo of {name}, a type of food."),
        ("zhou:/data/split_zhou_Food101.json", "a photo of {name}, a type of food."),
        ("zhou:/data/split_zhou_UCF101.json", "a photo of a person doing {name}."),
        ("imagenet2012", "a photo of a {name}."),
        ("caltech101", "a photo of a {name}."),
        ("zhou:/data/split_zhou_StanfordCars.json", "a photo of a {name}."),
        ("zhou:/data/split_zhou_SUN397.json", "a photo of a {name}."),
    ],
)
def test_the_template_of_coop(dataset, expected):
    assert templates.choose("coop", [{"name": "x"}], dataset) == (expected,)
