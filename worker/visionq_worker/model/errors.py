"""What can go wrong in the model package, as types. Messages carry no prompt and no model text.

ModelError
├── ModelLoadError     a checkpoint that cannot be used; the message says what to do
└── InputError         an input the model cannot take; the sender's to mend
    ├── PromptError      image tags or placeholders that do not fit the images
    └── ImageShapeError  an image without a tile grid
"""


class ModelError(Exception):
    """Base of everything this package raises on purpose."""


class ModelLoadError(ModelError):
    """The checkpoint cannot be found, read or placed; one line that says what to do."""


class InputError(ModelError):
    """The model cannot take this prompt or image, whoever asks and however often."""


class PromptError(InputError):
    """The prompt's image tags do not fit the images that came with it."""


class ImageShapeError(InputError):
    """The image's width and height give no grid of tiles."""
