"""The numbers of a Phi-3-Vision checkpoint, read from its published config.json as it stands.

One flat file describes the decoder, and names the vision tower only as "CLIP ViT-L/14-336". Three
keys are ours, all optional, for checkpoints that are smaller than the published ones:
`vision_config` (what differs from CLIP ViT-L/14-336, for example `{"num_hidden_layers": 3}`),
`image_token_id` (the placeholder that image embeddings are written over) and a list as
`eos_token_id` (the ids a reply ends with).
"""

from typing import Any, ClassVar

from transformers.configuration_utils import SubConfigSpec
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.phi3.configuration_phi3 import Phi3Config

# Of the published tokenizer: </s>, <|endoftext|>, <|end|>. A chat ends with one of the last two.
HUB_STOP_TOKEN_IDS = (2, 32000, 32007)
HUB_IMAGE_TOKEN_ID = 32044  # <|image|>

CLIP_VIT_L_14_336: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}

# The one layout of image embeddings that was ever published, and the only one built here.
EMBEDDING_LAYOUT = {
    "embedding_cls": "image",
    "hd_transform_order": "sub_glb",
    "projection_cls": "mlp",
    "use_hd_transform": True,
    "with_learnable_separator": True,
}


class Phi3VConfig(Phi3Config):
    """Configuration of Phi-3-Vision and Phi-3.5-Vision; raises ValueError for another layout."""

    model_type = "phi3_v"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "vision_config": SubConfigSpec(CLIPVisionConfig)
    }

    vision_config: dict[str, Any] | CLIPVisionConfig | None = None
    embd_layer: dict[str, Any] | None = None
    image_token_id: int = HUB_IMAGE_TOKEN_ID
    eos_token_id: int | list[int] | None = 2

    def __post_init__(self, **kwargs: Any) -> None:
        # The published file asks for flash_attention_2 whatever the machine has: callers choose.
        kwargs.pop("_attn_implementation", None)
        if kwargs.get("rope_scaling"):
            kwargs["rope_scaling"] = self._long_rope(kwargs["rope_scaling"])
        if not isinstance(self.vision_config, CLIPVisionConfig):
            self.vision_config = CLIPVisionConfig(
                **{**CLIP_VIT_L_14_336, **(self.vision_config or {})}
            )
        # The published file names only </s>, which a chat never writes.
        if self.eos_token_id == 2:
            self.eos_token_id = list(HUB_STOP_TOKEN_IDS)
        # Published as 131072, the most positions there are: it never binds, but costs fast paths.
        self.sliding_window = None
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        self._check_layout()
        self.validate_rope()  # type: ignore[no-untyped-call]  # lengths of the factor lists

    @property
    def tower(self) -> CLIPVisionConfig:
        """The vision tower's own configuration."""
        assert isinstance(self.vision_config, CLIPVisionConfig), "made so by __post_init__"
        return self.vision_config

    @property
    def stop_token_ids(self) -> frozenset[int]:
        """Ids that end a reply."""
        ids = self.eos_token_id
        return frozenset([ids] if isinstance(ids, int) else ids or [])

    def _long_rope(self, published: dict[str, Any]) -> dict[str, Any]:
        """The published rope_scaling in transformers' words.

        Its "su" must become "longrope" before the base class looks: only for that name does the
        base copy original_max_position_embeddings, which it reads later. `factor` is what the base
        would work out itself, with a warning.
        """
        parameters = {key: value for key, value in published.items() if key != "type"}
        name = published.get("rope_type", published.get("type"))
        parameters["rope_type"] = "longrope" if name == "su" else name
        growth = self.max_position_embeddings / self.original_max_position_embeddings
        parameters.setdefault("factor", growth)
        return parameters

    def _check_layout(self) -> None:
        for key, value in EMBEDDING_LAYOUT.items():
            if (self.embd_layer or {}).get(key, value) != value:
                raise ValueError(f"config.json: embd_layer.{key} must be {value!r}")
        for key in ("image_size", "patch_size"):
            if getattr(self.tower, key) != CLIP_VIT_L_14_336[key]:
                raise ValueError(f"config.json: {key} must be {CLIP_VIT_L_14_336[key]}")
