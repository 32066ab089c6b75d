"""The WebUI's way in: a few callbacks, each of which imports what it needs when it is called."""

import lib_ti  # noqa: F401 - found now, while the WebUI has this folder on its path, or never
