"""Cards through the doors: made, looked at, taken in; names that are refused come with a better one."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lib_ti.cli import main
from lib_ti.core.errors import BadInput
from lib_ti.formats.embedding import IS_NEGATIVE, Embedding, read_embedding, write_safetensors
from lib_ti.hosts.base import Folders
from lib_ti.tools.tool import DATA_URL
from lib_ti.workshop import Workshop
from tests.place import StandalonePlace


@pytest.fixture
def folders(place: StandalonePlace) -> Folders:
    """With a pair of words in it, and a preview of one."""
    folders, generator = place.folders(), torch.Generator().manual_seed(0)
    folders.embeddings.mkdir(parents=True)
    for name, more in (("tom", {}), ("tom-neg", {IS_NEGATIVE: "true"})):
        vectors = torch.randn(2, 64, generator=generator)
        told = {"base_model": "tinyworld", "base_model_sha256": "ab" * 32, **more}
        write_safetensors(
            Embedding(name, {"clip_l": vectors}, 500, told), folders.embeddings / f"{name}.safetensors"
        )
    Image.new("RGB", (64, 64), (200, 30, 30)).save(folders.embeddings / "tom.preview.png")
    return folders


def use(workshop: Workshop, verb: str, **values: Any) -> Any:
    return workshop.use("card", verb, values)


def test_a_pair_travels_as_one_picture(workshop: Workshop, folders: Folders, place: StandalonePlace) -> None:
    made = use(workshop, "make", embedding="tom")
    assert made.written == (folders.cards / "tom.png",)
    with Image.open(made.written[0]) as card:
        # The preview beside the embedding is what it shows.
        assert card.getpixel((card.width // 2, 200)) == (200, 30, 30)
    told = use(workshop, "look", card="tom").told
    assert (told["word"], told["trained_on"], told["steps"]) == ("tom", "tinyworld [ababababab]", 500)
    assert told["partner"] == "tom-neg, 2 vectors for the negative prompt"
    assert told["suggested_name"] == "tom-2"
    place.told.clear()
    taken = use(workshop, "import", card="tom", name="tim")
    assert taken.told["words"] == ["tim", "tim-neg"]
    for old, new in (("tom", "tim"), ("tom-neg", "tim-neg")):
        before, after = (read_embedding(folders.embeddings / f"{n}.safetensors") for n in (old, new))
        assert torch.equal(after.vectors["clip_l"], before.vectors["clip_l"])
        assert (after.step, after.is_negative) == (500, old == "tom-neg")
    # The program is told of both, with the card as the preview.
    assert [(name, preview) for name, preview, _ in place.told] == [
        ("tim.safetensors", True),
        ("tim-neg.safetensors", True),
    ]


@pytest.mark.parametrize(
    ("name", "free"),
    [("", "tom-2"), ("TOM", "TOM-2"), ("../tom", "tom-2"), ("con", "my-con"), ("a:b", "a-b")],
)
def test_names_that_cannot_be_are_refused_with_one_that_can(
    workshop: Workshop, folders: Folders, name: str, free: str
) -> None:
    use(workshop, "make", embedding="tom")
    before = sorted(folders.embeddings.iterdir())
    with pytest.raises(BadInput, match=f"'{free}'"):
        use(workshop, "import", card="tom", name=name)
    assert sorted(folders.embeddings.iterdir()) == before
    assert use(workshop, "import", card="tom", name=free).told["words"] == [free, f"{free}-neg"]


def test_a_card_may_be_sent_itself(workshop: Workshop, folders: Folders) -> None:
    card = use(workshop, "make", embedding="tom").written[0].read_bytes()
    sent = DATA_URL + base64.b64encode(card).decode()
    assert use(workshop, "look", card=sent).told["word"] == "tom"
    plain = io.BytesIO()
    Image.new("RGB", (64, 64)).save(plain, format="PNG")
    for content, told in ((plain.getvalue(), "without an embedding"), (b"<html>", "no PNG")):
        with pytest.raises(BadInput, match=told):
            use(workshop, "look", card=DATA_URL + base64.b64encode(content).decode())
    for text in ("!", "é", "A"):
        with pytest.raises(BadInput, match="base64"):
            use(workshop, "look", card=DATA_URL + text)
    with pytest.raises(BadInput, match="none of the cards"):
        use(workshop, "look", card=str(folders.cards / "tom.png"))


def test_a_card_is_not_replaced_unless_asked(workshop: Workshop, folders: Folders) -> None:
    use(workshop, "make", embedding="tom")
    with pytest.raises(BadInput, match="exists"):
        use(workshop, "make", embedding="tom")
    use(workshop, "make", embedding="tom", overwrite=True)


def test_on_the_command_line(
    folders: Folders, place: StandalonePlace, capsys: pytest.CaptureFixture[str]
) -> None:
    data, word = str(place.data), str(folders.embeddings / "tom.safetensors")
    assert main(["card", "make", word, "--data", data]) == 0
    card = str(folders.cards / "tom.png")
    assert main(["card", "look", card, "--data", data]) == 0
    assert '"suggested_name": "tom-2"' in capsys.readouterr().out
    assert main(["card", "import", card, "--data", data]) == 2
    assert main(["card", "import", card, "--name", "tim", "--data", data]) == 0
    assert Path(folders.embeddings, "tim-neg.safetensors").is_file()
