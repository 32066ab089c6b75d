import numpy as np
import pytest

from lib_ti.tinyworld.concepts import SPLITS, parse_concept
from lib_ti.tinyworld.render import SIDE, render
from lib_ti.tinyworld.world import (
    ATTRIBUTES,
    COLOURS,
    KNOWN,
    UNSEEN,
    VALUES,
    Scene,
    caption,
    draw_words,
    random_scene,
)

STAR = Scene("star", "orange", "blue", "outlined", "small", "comic", "left", 5)
EVERYTHING = frozenset(KNOWN)


def test_the_world_is_large_enough() -> None:
    assert len(KNOWN["shape"]) >= 8 and len(COLOURS) >= 8
    assert (len(KNOWN["size"]), len(KNOWN["fill"]), len(KNOWN["style"])) == (2, 2, 3)
    assert {name: len(values) for name, values in UNSEEN.items()} == {"shape": 3, "fill": 1, "style": 1}


def test_the_same_seed_draws_the_same_bytes() -> None:
    scenes = [[random_scene(np.random.default_rng(seed)) for seed in range(20)] for _ in range(2)]
    assert scenes[0] == scenes[1]
    assert all(render(a).tobytes() == render(b).tobytes() for a, b in zip(*scenes, strict=True))


def test_a_seed_moves_and_tints_but_does_not_change_what_is_seen() -> None:
    one, other = render(STAR), render(Scene(**{**STAR.__dict__, "seed": 6}))
    assert one.size == (SIDE, SIDE)
    assert one.tobytes() != other.tobytes()


def test_every_value_shows() -> None:
    """Another value of any attribute is another picture."""
    for attribute in (*ATTRIBUTES, "position"):
        pictures = {
            render(Scene(**{**STAR.__dict__, attribute: value})).tobytes()
            for value in VALUES[attribute]
            if value not in (STAR.colour, STAR.background)
        }
        expected = [v for v in VALUES[attribute] if v not in (STAR.colour, STAR.background)]
        assert len(pictures) == len(expected)


def test_scenes_cover_the_world_and_never_hide_the_shape() -> None:
    rng = np.random.default_rng(1)
    scenes = [random_scene(rng) for _ in range(2000)]
    assert all(scene.colour != scene.background for scene in scenes)
    for attribute, values in KNOWN.items():
        assert {getattr(scene, attribute) for scene in scenes} == set(values)


def test_a_fixed_background_never_equals_the_colour() -> None:
    rng = np.random.default_rng(1)
    assert all(random_scene(rng, background="red").colour != "red" for _ in range(100))


def test_an_unknown_value_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown shape 'blob'"):
        Scene("blob", "red", "blue", "solid", "small", "flat", "left")


def test_captions_tell_what_is_named_in_several_forms() -> None:
    captions = {caption(STAR, np.random.default_rng(i), EVERYTHING, {}) for i in range(200)}
    assert len(captions) >= 4
    for text in captions:
        words = text.replace(",", "").split()
        assert {"star", "orange", "blue", "outlined", "small", "comic", "left"} <= set(words)
        assert " a o" not in f" {text}", "an before a vowel"


def test_captions_tell_nothing_else() -> None:
    named = frozenset({"shape", "colour"})
    words = {
        w
        for i in range(200)
        for w in caption(STAR, np.random.default_rng(i), named, {}).replace(",", "").split()
    }
    assert words.isdisjoint({"blue", "outlined", "small", "comic", "left"})


def test_training_captions_never_name_the_unseen() -> None:
    rng = np.random.default_rng(2)
    words = {
        w
        for _ in range(3000)
        for w in caption(random_scene(rng), rng, *draw_words(rng)).replace(",", "").split()
    }
    assert words.isdisjoint({value for values in UNSEEN.values() for value in values})
    assert {"shape", "coloured", "plain", "simple"} <= words


def test_splits_share_no_concept_and_unseen_is_unseen() -> None:
    tuning, test, unseen = (set(SPLITS[name]) for name in ("tuning", "test", "unseen"))
    assert not tuning & test and not tuning & unseen and not test & unseen
    assert unseen == {value for values in UNSEEN.values() for value in values}
    assert len(test) >= 12


@pytest.mark.parametrize("name", [name for names in SPLITS.values() for name in names])
def test_a_concept_is_its_words_and_its_trigger_stands_once(name: str) -> None:
    concept = parse_concept(name)
    assert concept.name == name
    assert not set(concept.init_text.split()) & set(name.split())
    scene = random_scene(np.random.default_rng(0), KNOWN, **concept.attributes)
    for i in range(50):
        text = caption(scene, np.random.default_rng(i), EVERYTHING, concept.words("[name]"))
        assert text.count("[name]") == 1
        told = text.replace(",", "").split()
        # A background may have the colour's word; nothing else may tell the concept.
        assert not (set(name.split()) - {scene.background}) & set(told)
