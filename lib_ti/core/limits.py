"""How much is read of what strangers made: every reader looks here before it takes memory or time.

A limit is some times what real files were seen to hold, and low enough that what keeps within it is read
within a second and 256 MB (``ti-studio bench fuzz``).
"""

from __future__ import annotations

from lib_ti.core.errors import BadInput

# Texts and what is written in them.
TEXT = 1 << 20  # bytes of a template, a data set file, a file of prompts
CAPTION = 100_000  # bytes of a caption's file; long ones of tags have 5,000
PROMPT = 20_000  # characters of a prompt, its template's line filled
PROMPTS = 1000  # of a file of sample prompts
DRAWN_PROMPTS = 2_000  # that are read to count a word in them; 10,000 take seconds
BRACKETS = 100  # of a prompt inside one another: each multiplies the weight of all that is in it
PROMPT_KEYS = 100  # that all prompts of a file share
ARGUMENTS = 10_000  # characters of arguments such as network_args
OPTIMIZER_ARGUMENTS = 1_000  # characters
MIXTURE = 1_000  # characters of an expression over embeddings
EXPRESSION = 100  # characters of one for a scale, so that nesting stays far from Python's limit
JSON = 4 << 20  # bytes of JSON or TOML; lists of nothing take twenty times as much
DEPTH = 64  # of lists and tables inside one another
DIGITS = 100  # of a whole number: Python takes its time for long ones

# Tensor files.
HEADER = 16 << 20  # bytes of a safetensors header; the format allows 100 MB
TENSORS = 50_000  # in a file; a whole SDXL checkpoint has 2,515
TENSOR_NAME = 500  # letters
AXES = 16  # of a tensor
PROGRAM = 4 << 20  # bytes of a pickle's opcodes and their names
INSTRUCTIONS = 200_000  # of a pickle: half a second; a whole SDXL checkpoint has half of them
SHARED = 4  # times the bytes of its file, all tensors of a pickle together: tied weights have two names
MEMBERS = TENSORS + 100  # of a zip archive: its storages, and what torch says of them

# Embeddings.
VECTORS = 75  # what one chunk of a prompt holds
WIDTH = 4096  # numbers of a vector
EMBEDDING_FILE = 64 << 20  # bytes; 75 vectors for both of SDXL's text encoders are 0.6 MB

# Pictures.
PIXELS = 1 << 25  # below Pillow's own limit, which hosts lift; it keeps 4 bytes of each, and twice at a turn
PICTURE_FILE = 256 << 20  # bytes
PNG_CHUNKS = 1_000  # without pixels: texts, times, profiles
PIXEL_CHUNKS = 50_000  # of a PNG; usual are 8 or 64 kB each
COLOUR_PROFILE = 4 << 20  # bytes; those of curves and colorants take a few thousand
COLOUR_TAGS = 100  # of a profile; usual are 10 to 20
JPEG_SEGMENTS = 10_000  # before its pixels
JPEG_SCANS = 500  # each goes over the whole picture; usual are 10

# Cards.
CARD_FILE = 64 << 20  # bytes; base64 of it is a third longer
CARD_PIXELS = 1 << 24
CARD_JSON = 5 << 20  # bytes; 75 vectors of SDXL in stock A1111's digits take 3.9 million
CARD_BORDERS = 4 << 20  # bytes in the borders of a picture
CARD_METADATA = 1 << 18  # characters

# Data sets.
SUBSETS = 1_000  # of a data set file
REPEATS = 10_000  # of a picture in an epoch
SHOWN = 1_000_000  # pictures of an epoch, repeats counted
LOSSES = 128 << 20  # bytes of a job's loss.csv; a million steps take 30 MB

# Models, as their .yaml or config.json describes them. SDXL has 10 transformers in a row, ViT-bigG 32 layers.
DESCRIPTION = 32 << 10  # bytes; those of the families have 2 to 4 kB
VOCABULARY = 16 << 20  # bytes of any other text in a diffusers folder; tokenizer.json has 2 million
NUMBERS = 64  # in a list of a description
LAYERS = 64  # in a row: layers, transformers
BLOCKS = 256  # levels, layers and transformers of a U-Net multiplied; SDXL has 90
SIDE = 1 << 17  # any other number: widths, heads, words of the vocabulary


def check_prompt(length: int, what: str = "a prompt") -> None:
    """Raises BadInput where a prompt has, or would have, too many characters."""
    if length > PROMPT:
        raise BadInput(f"{what} has {length} characters; at most {PROMPT} are read, shorten it.")
