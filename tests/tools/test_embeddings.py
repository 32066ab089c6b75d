"""The workshop of embeddings, as page and HTTP use it, on the built-in model; the command line at the end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_ti.cli import main
from lib_ti.core.errors import BadInput
from lib_ti.formats.embedding import IS_NEGATIVE, Embedding, read_embedding, write_pt, write_safetensors
from lib_ti.workshop import Workshop
from tests.place import StandalonePlace

SAID = {"base_model": "tiny", "base_model_sha256": "ab", "job": "j1", "settings": "{}"}


def rows(place: StandalonePlace, *words: str) -> torch.Tensor:
    """The model's own vectors of words."""
    ids = [place.host.words()[word] for word in words]
    return place.host.token_vectors("clip_l")[ids].clone()


@pytest.fixture
def folder(place: StandalonePlace) -> Path:
    """The embeddings: a word of two vectors, another of three, a pair."""
    folder = place.folders().embeddings
    folder.mkdir(parents=True)
    cat = rows(place, "red", "star") * 0.9 + 0.01
    write_safetensors(Embedding("zqx-cat", {"clip_l": cat}, 500, SAID), folder / "zqx-cat.safetensors")
    dog = torch.cat([rows(place, "blue", "circle", "green")]) - 0.01
    write_pt(Embedding("my dog", {"clip_l": dog}, 20, SAID), folder / "my dog.pt")
    pair = {
        "zqx-pair": {"negative_embedding": "zqx-pair-neg"},
        "zqx-pair-neg": {"positive_embedding": "zqx-pair", IS_NEGATIVE: "true"},
    }
    for at, (name, said) in enumerate(pair.items()):
        vectors = {"clip_l": cat * (1 - 2 * at) + 0.02}
        write_safetensors(Embedding(name, vectors, 9, {**SAID, **said}), folder / f"{name}.safetensors")
    return folder


def use(workshop: Workshop, verb: str, **values: Any) -> dict[str, Any]:
    return workshop.use("embedding", verb, values).as_json()


# ---- inspect ----


def test_inspect_tells_what_is_in_it(workshop: Workshop, folder: Path) -> None:
    told = use(workshop, "inspect", file="zqx-cat", words=3)
    assert told["sentence"] == "zqx-cat: 2 vectors for sd1."
    (one,) = told["embeddings"]
    assert (one["step"], one["trained on"], one["for the negative prompt"]) == (500, "tiny", False)
    first, second = one["vectors"]
    assert first["nearest words"].startswith("red ") and second["nearest words"].startswith("star ")
    assert len(first["nearest words"].split(", ")) == 3
    ratio = first["of a word's length"] / second["of a word's length"]
    assert ratio == pytest.approx(first["norm"] / second["norm"], rel=0.02)
    assert first["longer than"].endswith("% of the words")
    json.dumps(told)


def test_inspect_needs_no_model(workshop: Workshop, folder: Path, place: StandalonePlace) -> None:
    width = 768
    write_safetensors(Embedding("wide", {"clip_l": torch.ones(1, width)}), folder / "wide.safetensors")
    (one,) = use(workshop, "inspect", file="wide")["embeddings"]
    assert "768 numbers for clip_l" in one["beside the model"]
    assert one["vectors"] == [{"encoder": "clip_l", "vector": 1, "norm": round(width**0.5, 4)}]

    def nobody() -> None:
        raise BadInput("no model is loaded.")

    place.look = nobody  # type: ignore[assignment]
    (one,) = use(workshop, "inspect", file="zqx-cat")["embeddings"]
    assert one["beside the model"] == "no model is loaded." and len(one["vectors"]) == 2
    (one,) = use(workshop, "inspect", file="zqx-cat", words=0)["embeddings"]
    assert "beside the model" not in one


# ---- check ----


def remedies(workshop: Workshop, name: str, **more: Any) -> list[str]:
    return [one["what"] for one in use(workshop, "check", file=name, **more)["found"]]


def write(folder: Path, name: str, vectors: torch.Tensor, **said: str) -> None:
    write_safetensors(Embedding(name, {"clip_l": vectors}, None, said), folder / f"{name}.safetensors")


def test_check_finds_nothing_in_a_good_one(workshop: Workshop, folder: Path) -> None:
    assert remedies(workshop, "zqx-cat") == []
    assert "Nothing wrong can be seen in the 4" in use(workshop, "check")["sentence"]


def test_check_says_what_is_off(workshop: Workshop, folder: Path, place: StandalonePlace) -> None:
    red, star = rows(place, "red", "star")
    noise = torch.randn(30, len(red), generator=torch.Generator().manual_seed(0))
    noise *= red.norm() / noise.norm(dim=1, keepdim=True)
    cases: dict[str, tuple[torch.Tensor, list[str]]] = {
        "zqa": (torch.stack([red * 0, noise[0]]), ["Vector 1 of clip_l: all zeros"]),
        "zqb": (torch.stack([noise[1], noise[2], noise[1]]), ["Vectors 1 and 3 are the same"]),
        "zqc": (noise[:26], ["takes 26 of the 75 places"]),
        "zqd": (noise[3:4] * 50, ["Vector 1 of clip_l: longer than any word, up to"]),
        "zqe": (noise[4:5] * 0.02, ["shorter than a tenth of a usual word"]),
        "zqf": (torch.stack([star, noise[5]]), ["Vector 1: still the vocabulary's own 'star'"]),
        "star": (noise[6:7], ["Its name is the word 'star'"]),
        "zqg": (torch.ones(1, 768), ["have 768 numbers for clip_l; the model"]),
        "zqh-neg": (noise[7:8], ["negative half of a pair whose other half, zqh, is not"]),
    }
    for name, (vectors, _) in cases.items():
        write(folder, name, vectors)
    for name, (_, expected) in cases.items():
        found = remedies(workshop, name)
        assert len(found) == len(expected), found
        assert all(part in one for part, one in zip(expected, found, strict=True)), found
    everything = use(workshop, "check")
    assert {one["file"] for one in everything["found"]} == {f"{name}.safetensors" for name in cases}
    assert everything["sentence"] == "9 things to know of 9 of 13 embeddings."
    assert all(one["what to do"] for one in everything["found"])


def test_check_looks_at_files_that_cannot_be_read(workshop: Workshop, folder: Path) -> None:
    save_file({"emb_params": torch.full((1, 64), torch.nan)}, folder / "nan.safetensors")
    (folder / "text.pt").write_bytes(b"hello")
    found = {one["file"]: one for one in use(workshop, "check")["found"]}
    assert found["nan.safetensors"]["what"].startswith("Its training broke: ")
    assert "earlier saved step" in found["nan.safetensors"]["what to do"]
    assert found["text.pt"]["what"].startswith("It cannot be read: text.pt is neither")


def test_check_finds_doubles(workshop: Workshop, folder: Path) -> None:
    inside = folder / "old"
    inside.mkdir()
    shutil.copy(folder / "zqx-cat.safetensors", inside / "ZQX-CAT.safetensors")
    shutil.copy(folder / "my dog.pt", folder / "your dog.pt")
    assert "old/ZQX-CAT.safetensors has the same name" in remedies(workshop, "zqx-cat.safetensors")[0]
    assert "your dog.pt holds the same vectors" in remedies(workshop, "my dog.pt")[0]


def test_check_reads_prompts(workshop: Workshop, folder: Path) -> None:
    assert "not in the prompt" in remedies(workshop, "zqx-cat", prompt="a red star")[0]
    assert remedies(workshop, "zqx-cat", prompt="a red zqx-cat, blue") == []
    weighted = "(star:1.2) " * 36 + "<lora:star star star:0.8> (zqx-cat:1.3)"
    assert remedies(workshop, "zqx-cat", prompt=weighted) == []
    wrong = remedies(workshop, "zqx-pair-neg", prompt="zqx-pair, zqx-pair-neg", negative_prompt="blue")
    assert "for the negative prompt, and stands in the prompt" in wrong[0]
    assert remedies(workshop, "zqx-pair-neg", prompt="zqx-pair", negative_prompt="zqx-pair-neg") == []
    (long,) = remedies(workshop, "zqx-cat", prompt="zqx-cat " + "star " * 74)
    assert "has 76 tokens" in long


# ---- files ----


def test_convert_says_what_is_lost(workshop: Workshop, folder: Path, place: StandalonePlace) -> None:
    told = use(workshop, "convert", file="zqx-cat", to="copy")
    assert told["sentence"].endswith("It keeps everything.")
    assert read_embedding(folder / "copy.safetensors").metadata["trigger"] == "copy"
    told = use(workshop, "convert", file="zqx-cat", to="zqx-tom.bin", precision="fp16")
    (lost,) = told["not kept"].values()
    assert "the steps it was trained for" in lost and "precision" in lost[-1]
    assert read_embedding(folder / "zqx-tom.bin").name == "zqx-tom"
    assert [name for name, *_ in place.told] == ["copy.safetensors", "zqx-tom.bin"]
    with pytest.raises(BadInput, match="exists"):
        use(workshop, "convert", file="zqx-cat", to="copy")
    with pytest.raises(BadInput, match=r"expected a name ending in \.safetensors"):
        use(workshop, "convert", file="zqx-cat", to="copy.png")


def test_convert_sdxl_for_diffusers(workshop: Workshop, folder: Path, place: StandalonePlace) -> None:
    both = {"clip_l": torch.randn(2, 768), "clip_g": torch.randn(2, 1280)}
    write_safetensors(Embedding("zqx-big", both), folder / "zqx-big.safetensors")
    told = use(workshop, "convert", file="zqx-big", to="learned_embeds.bin")
    assert [Path(file).name for file in told["written"]] == ["learned_embeds.bin", "learned_embeds_2.bin"]
    again = read_embedding(folder / "learned_embeds.bin")
    assert again.name == "zqx-big" and torch.equal(again.vectors["clip_g"], both["clip_g"])
    assert [name for name, *_ in place.told] == ["learned_embeds.bin"]


def test_rename_takes_everything_along(workshop: Workshop, folder: Path) -> None:
    before = {name: read_embedding(folder / f"{name}.safetensors") for name in ("zqx-pair", "zqx-pair-neg")}
    (folder / "zqx-pair.preview.png").write_bytes(b"picture")
    (folder / "zqx-pair-neg.description.txt").write_text("nine steps")
    use(workshop, "rename", file="zqx-pair", name="zqx-two")
    assert not list(folder.glob("zqx-pair*"))
    for old, embedding in before.items():
        new = read_embedding(folder / f"{old.replace('pair', 'two')}.safetensors")
        assert torch.equal(new.vectors["clip_l"], embedding.vectors["clip_l"])
        assert (new.step, new.is_negative) == (9, embedding.is_negative)
    first = read_embedding(folder / "zqx-two.safetensors")
    assert first.metadata["negative_embedding"] == "zqx-two-neg"
    assert (folder / "zqx-two.preview.png").read_bytes() == b"picture"
    assert (folder / "zqx-two-neg.description.txt").is_file()


def test_rename_refuses_before_it_moves(workshop: Workshop, folder: Path) -> None:
    before = sorted(folder.iterdir())
    for name, said in (("zqx-cat", "exists"), ("../x", "cannot be a name"), ("con", "cannot be a name")):
        with pytest.raises(BadInput, match=said):
            use(workshop, "rename", file="my dog", name=name)
    write_safetensors(Embedding("x", {"clip_l": torch.ones(1, 64)}), folder / "b-neg.safetensors")
    with pytest.raises(BadInput, match=r"b-neg\.safetensors exists"):
        use(workshop, "rename", file="zqx-pair", name="b")
    assert sorted(folder.iterdir()) == sorted([*before, folder / "b-neg.safetensors"])
    with pytest.raises(BadInput, match="other capitals"):
        use(workshop, "rename", file="my dog", name="ZQX-cat")
    use(workshop, "rename", file="zqx-cat", name="ZQX-Cat")
    assert read_embedding(folder / "ZQX-Cat.safetensors").metadata["trigger"] == "ZQX-Cat"
    use(workshop, "rename", file="my dog", name="my dog")  # becomes .safetensors
    assert not (folder / "my dog.pt").exists() and read_embedding(folder / "my dog.safetensors").step == 20


def test_a_pair_is_joined_and_split(workshop: Workshop, folder: Path, place: StandalonePlace) -> None:
    vectors = {path.stem: read_embedding(path).vectors["clip_l"] for path in folder.glob("zqx-pair*")}
    told = use(workshop, "join", file="zqx-pair", to="both")
    bundle = place.folders().networks / "both.safetensors"
    assert sorted(load_file(bundle)) == [
        f"bundle_emb.zqx-pair{half}.string_to_param.*" for half in ("-neg", "")
    ]
    assert "Write <lora:both:1> and zqx-pair into the prompt" in told["sentence"]
    for path in folder.glob("zqx-pair*"):
        path.unlink()
    told = use(workshop, "split", file="both")
    assert told["words"] == ["zqx-pair", "zqx-pair-neg"]
    for name, rows in vectors.items():
        again = read_embedding(folder / f"{name}.safetensors")
        assert torch.equal(again.vectors["clip_l"], rows)
        assert (again.step, again.is_negative) == (9, name.endswith("-neg"))
    with pytest.raises(BadInput, match="exists"):
        use(workshop, "split", file="both")
    with pytest.raises(BadInput, match="does not lie beside"):
        use(workshop, "join", file="zqx-cat", to="none")


def test_any_two_halves_become_a_pair(workshop: Workshop, folder: Path) -> None:
    use(workshop, "join", file="zqx-cat", negative="my dog", to="both")
    use(workshop, "rename", file="zqx-cat", name="kept")
    use(workshop, "split", file="both")
    negative = read_embedding(folder / "zqx-cat-neg.safetensors")
    assert negative.is_negative and negative.count == 3


# ---- vectors ----


def vectors(folder: Path, name: str) -> torch.Tensor:
    return read_embedding(folder / name).vectors["clip_l"]


def test_merge(workshop: Workshop, folder: Path) -> None:
    cat, dog = vectors(folder, "zqx-cat.safetensors"), vectors(folder, "my dog.pt")
    use(workshop, "merge", files="zqx-cat\nmy dog", to="joined")
    assert torch.equal(vectors(folder, "joined.safetensors"), torch.cat([cat, dog]))
    said = read_embedding(folder / "joined.safetensors").metadata
    assert (said["base_model"], said["modelspec.merged_from"]) == ("tiny", "zqx-cat, my dog")
    assert "job" not in said and "settings" not in said
    with pytest.raises(BadInput, match=r"zqx-cat has 2 vectors and .*my dog 3; choose"):
        use(workshop, "merge", files="zqx-cat\nmy dog", to="x", how="sum")
    use(workshop, "merge", files="zqx-cat\nmy dog", to="sum", how="sum", weights="0.7, -1", short="repeat")
    assert torch.allclose(vectors(folder, "sum.safetensors"), 0.7 * cat[[0, 1, 0]] - dog)
    use(workshop, "merge", files="zqx-cat\nzqx-pair", to="half", how="sum")
    pair = vectors(folder, "zqx-pair.safetensors")
    assert torch.allclose(vectors(folder, "half.safetensors"), (cat + pair) / 2)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"files": "zqx-cat"}, "expected two embeddings"),
        ({"weights": "1, 2"}, "belong to a sum"),
        ({"how": "sum", "weights": "1"}, "got 1 for 2"),
        ({"how": "sum", "weights": "a, b"}, "expected numbers"),
        ({"how": "sum", "weights": "1, nan", "short": "zeros"}, "expected numbers"),
        ({"files": "zqx-cat\nzqx-cat\nnobody"}, "'nobody' is none of the embeddings"),
        ({"to": "../x"}, "cannot be a name"),
        ({"to": "zqx-pair"}, "exists"),
    ],
)
def test_merge_refuses(workshop: Workshop, folder: Path, values: dict[str, str], said: str) -> None:
    before = sorted(folder.iterdir())
    with pytest.raises(BadInput, match=said):
        use(workshop, "merge", **{"files": "zqx-cat\nmy dog", "to": "new", **values})
    assert sorted(folder.iterdir()) == before


def test_mix(workshop: Workshop, folder: Path, place: StandalonePlace) -> None:
    told = use(workshop, "mix", expression='0.5*zqx-cat + 0.5*zqx-pair - "red star"', to="mixed")
    cat, pair = vectors(folder, "zqx-cat.safetensors"), vectors(folder, "zqx-pair.safetensors")
    expected = 0.5 * cat + 0.5 * pair - rows(place, "red", "star")
    assert torch.allclose(vectors(folder, "mixed.safetensors"), expected, atol=1e-6)
    assert told["vectors"] == 2
    assert (
        read_embedding(folder / "mixed.safetensors").metadata["made_by"]
        == '0.5*zqx-cat + 0.5*zqx-pair - "red star"'
    )
    use(workshop, "mix", expression="'my dog', \"blue\"", to="listed")
    assert len(vectors(folder, "listed.safetensors")) == 4
    for expression, said in (
        ("zqx-cat + 'my dog'", "choose"),
        ("nobody", "'nobody' is none of the embeddings"),
        ("../secret", "'.' is no part"),
        ("'../secret'", "is none of the embeddings"),
        ('""', "no word"),
        ("zqx-cat * 1e39", "not finite"),
    ):
        with pytest.raises(BadInput, match=said):
            use(workshop, "mix", expression=expression, to="new")
    assert not (folder / "new.safetensors").exists()


def test_prune(workshop: Workshop, folder: Path) -> None:
    dog = vectors(folder, "my dog.pt")
    told = use(workshop, "prune", file="my dog", keep="3,1", to="less")
    assert (told["kept"], told["left out"]) == ([3, 1], [2])
    assert torch.equal(vectors(folder, "less.safetensors"), dog[[2, 0]])
    shortest = int(dog.norm(dim=1).argmin()) + 1
    assert use(workshop, "prune", file="my dog", drop=1, to="two")["left out"] == [shortest]
    for values, said in (
        ({}, "expected one of them"),
        ({"keep": "1", "drop": 1}, "expected one of them"),
        ({"drop": 3}, "has 3 vectors"),
        ({"keep": "4"}, "'4' is none of the vectors 1 to 3"),
    ):
        with pytest.raises(BadInput, match=said):
            use(workshop, "prune", file="my dog", to="x", **values)


# ---- the command line ----


def test_on_the_command_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "data")
    words = ["embedding", "mix", "0.5*zqx-cat + 0.5*zqx-pair", "made.pt", "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["written"] == ["made.pt"] and read_embedding(Path("made.pt")).count == 2
    assert main(["embedding", "merge", "made.pt", "embeddings/my dog.pt", "joined.safetensors"]) == 0
    assert read_embedding(Path("joined.safetensors")).count == 5
    assert main(["embedding", "inspect", "made.pt", "--words", "2", "--model", "builtin"]) == 0
    assert '"nearest words"' in capsys.readouterr().out
    # Without a model nothing is said of one, and what needs it says how to name it.
    assert main(["embedding", "check"]) == 0
    assert "The model was not asked: no model is named; name one with --model" in capsys.readouterr().err
    assert main(["embedding", "mix", '"star"', "star.pt"]) == 2
    assert "no model is named" in capsys.readouterr().err and not Path("star.pt").exists()
