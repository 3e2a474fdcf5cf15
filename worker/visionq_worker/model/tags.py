"""The tags in prompts that stand for tokens of their own. Importing this loads nothing heavy."""

from __future__ import annotations

import re

TAG = re.compile(r"<\|[^\s|>]{1,40}\|>")
"""The chat's own and those of images, such as `<|end|>`. What an application puts into a prompt
may hold none of them; whatever else a tokenizer adds to its vocabulary, such as `</s>`, is text."""
IMAGE_TAG = re.compile(r"<\|image_([0-9]{1,6})\|>")  # longer numbers are no tags, but text
